"""What the system does not give a command: permissions, open files, memory; one line each.

And what a command does not take of its input.
"""

import functools
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.commands import TRIALS, WRITERS, Material, remains, run
from tests.hostile.limits import fill_standard_output, limit_files, limit_memory, obey_permissions
from tests.marks import full

MEGABYTE = 1 << 20
NO_THREADS = "error: not enough memory or processes for one more thread;"


@pytest.mark.parametrize("command", [full(name) if " in background" in name else name for name in TRIALS])
def test_a_directory_that_cannot_be_written_to_is_one_line(
    command: str, material: Material, tmp_path: Path
) -> None:
    target = material.copy(tmp_path / "trial")
    target.chmod(0o555)
    try:
        outcome = run(command, TRIALS[command], target, first=obey_permissions)
    finally:
        target.chmod(0o755)
    assert outcome.is_one_line(), (outcome.code, outcome.stderr)
    assert [name for name in remains(target) if not name.startswith("shards_")] == []


@pytest.mark.parametrize(
    ("command", "limit", "message"),
    [
        ("preprocess", functools.partial(limit_files, 12), "Too many open files"),
        ("merge", functools.partial(limit_files, 12), "Too many open files"),
        ("score", functools.partial(limit_files, 12), "error: too many open files; raise the limit"),
        ("preprocess", functools.partial(limit_memory, 16 * MEGABYTE), "error: not enough memory;"),
        ("merge", functools.partial(limit_memory, 16 * MEGABYTE), "error: not enough memory;"),
        ("score", functools.partial(limit_memory, 4 * MEGABYTE), NO_THREADS),
        # gloo starts the threads of some of the groups, and would wait for one that it cannot start
        ("score", functools.partial(limit_memory, 260 * MEGABYTE), NO_THREADS),
        ("score", functools.partial(limit_memory, 300 * MEGABYTE), NO_THREADS),
        full("train", functools.partial(limit_files, 18), "error: too many open files;"),
        full("train", functools.partial(limit_memory, 64 * MEGABYTE), NO_THREADS),
    ],
)
def test_a_limit_of_the_system_is_one_line_and_leaves_nothing(
    command: str, limit: Callable[[], None], message: str, material: Material, tmp_path: Path
) -> None:
    target = material.copy(tmp_path / "trial")
    outcome = run(command, TRIALS[command], target, first=limit)
    assert outcome.is_one_line(), (outcome.code, outcome.stderr)
    assert message in outcome.errors[0]
    assert [name for name in remains(target) if not name.endswith(".parts")] == []


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full on this system")
def test_results_of_an_evaluation_are_written_though_nothing_can_be_printed(
    material: Material, tmp_path: Path
) -> None:
    words, output = WRITERS["evaluate"]
    target = material.copy(tmp_path / "trial")
    outcome = run("evaluate", words, target, first=fill_standard_output)
    assert outcome.is_one_line(), (outcome.code, outcome.stderr)
    assert json.loads((target / output).read_text())


@pytest.mark.parametrize("command", ["preprocess", "score"])
def test_a_record_over_the_limit_is_refused_and_the_others_are_read(
    command: str, material: Material, tmp_path: Path
) -> None:
    target = material.copy(tmp_path / "trial")
    lines = [json.dumps(record) for record in json.loads((target / "pairs.json").read_text())[:3]]
    lines[1] = lines[1].replace('"value": "', '"value": "' + "the cat " * 300, 1)
    (target / "in.jsonl").write_text("\n".join(lines))
    words = TRIALS[command].replace("pairs.json", "in.jsonl") + " --max-record-bytes 2000"
    outcome = run(command, words, target)
    assert outcome.code == (1 if command == "score" else 0), outcome.stderr
    assert "in.jsonl:2: longer than --max-record-bytes 2000" in outcome.stderr


@pytest.mark.parametrize("command", ["preprocess", "score"])
def test_a_bomb_is_one_line(command: str, material: Material, tmp_path: Path) -> None:
    target = material.copy(tmp_path / "trial")
    (target / "in.jsonl.gz").write_bytes(gzip.compress(b" " * (257 << 20), 9))
    words = TRIALS[command].replace("pairs.json", "in.jsonl.gz") + " --max-expansion 3"
    outcome = run(command, words, target)
    assert outcome.is_one_line(), (outcome.code, outcome.stderr)
    assert "in.jsonl.gz decompresses to more than 3 times its size" in outcome.errors[0]
