import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sentencepiece

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.base.log import warn_once
from modellink_rm.commands.preprocess import main
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.indexed import IndexedReader
from modellink_rm.dataset.manifest import array_prefix, checksums_path, data_files, manifest_path
from modellink_rm.preprocess.executor.local import ordered_map

SCRIPT = Path(__file__).parents[3] / "preprocess_data.py"
GOOD = {"instruction": "hello there", "chosen": "I am fine", "rejected": "no"}


@pytest.fixture(autouse=True)
def fresh_warnings():
    warn_once.cache_clear()


@pytest.fixture
def run(tmp_path, monkeypatch, sentencepiece_path):
    """Runs the command in an empty directory on records; extra flags follow."""
    monkeypatch.chdir(tmp_path)

    def run_on(records, *flags, name="in.jsonl", prefix="x"):
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        Path(name).write_text("\n".join(lines))
        words = ["--input", name, "--output-prefix", prefix]
        if "--handler-name" not in flags:
            words += ["--handler-name", "AlpacaStylePairwiseHandler"]
        words += ["--prompt-type", "llama2", "--tokenizer-model", str(sentencepiece_path), *flags]
        return run_command(main, words)

    return run_on


def rows_of(prefix, array):
    reader = IndexedReader(array_prefix(Path(prefix), array))
    return [reader[i].tolist() for i in range(len(reader))]


def files_in(directory="."):
    return sorted(name for name in os.listdir(directory) if name != "in.jsonl")


def test_rows_are_prompt_and_answer_with_labels_over_the_answer(run, sentencepiece_model):
    own = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
    assert run([GOOD]) == 0
    prompt = [1, *own.encode("[INST] hello there [/INST]")]
    for side, answer in (("chosen", "I am fine"), ("rejected", "no")):
        response = [*own.encode(answer), 2]
        assert rows_of("x", f"{side}_input_ids") == [prompt + response]
        assert rows_of("x", f"{side}_labels") == [[-100] * len(prompt) + response]


def test_a_bare_prefix_and_one_in_a_new_directory_both_work(run):
    assert run([GOOD], prefix="x") == 0
    assert run([GOOD], prefix="new/er/x") == 0
    assert files_in("new/er") == sorted(
        path.name for path in [*data_files(Path("x")), checksums_path(Path("x")), manifest_path(Path("x"))]
    )


def test_any_number_of_workers_writes_the_same_files(run):
    records = [{**GOOD, "instruction": f"question {i} " * (i % 7 + 1)} for i in range(500)]
    records[100] = "not json"
    records[300] = {"instruction": "q"}
    for workers in (1, 2, 3):
        assert run(records, "--workers", str(workers), prefix=f"w{workers}/x") == 0
    for path in [*data_files(Path("x")), checksums_path(Path("x")), manifest_path(Path("x"))]:
        contents = {Path(f"w{workers}", path.name).read_bytes() for workers in (1, 2, 3)}
        assert len(contents) == 1, path
    assert rows_of("w3/x", "chosen_input_ids")[99] != rows_of("w3/x", "chosen_input_ids")[100]


def test_bad_records_are_reported_with_place_and_reason_and_counted(run, capsys):
    records = [GOOD, {"instruction": "q", "chosen": "c"}, "", "{broken", GOOD, "[1]"]
    assert run(records) == 0
    output = capsys.readouterr()
    assert (
        "in.jsonl:2: field 'rejected' is missing; "
        "AlpacaStylePairwiseHandler needs instruction, chosen, rejected\n" in output.err
    )
    assert "in.jsonl:4: invalid JSON" in output.err
    assert "in.jsonl:6: a record must be a JSON object" in output.err
    manifest = open_dataset(Path("x")).manifest
    assert (manifest.num_read, manifest.num_kept) == (5, 2)
    assert manifest.dropped == {"field 'rejected' is missing": 1, "invalid JSON": 1, "not an object": 1}
    assert "1  field 'rejected' is missing" in output.out


def test_only_the_first_bad_records_are_shown(run, capsys):
    assert run([GOOD, *["{"] * 25]) == 0
    output = capsys.readouterr()
    assert output.err.count("invalid JSON") == 10
    assert "and 15 more bad records" in output.err
    assert "25  invalid JSON" in output.out


@pytest.mark.parametrize("workers", ["1", "2"])
def test_strict_stops_at_the_first_bad_record(run, capsys, workers):
    assert run([GOOD, {"instruction": "q"}, "{"], "--strict", "--workers", workers) == 2
    output = capsys.readouterr()
    assert "error: in.jsonl:2: field 'chosen' is missing" in output.err
    assert "in.jsonl:3" not in output.err
    assert files_in() == []


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "in.jsonl holds no records"),
        (["{"], "none of the 1 records was kept (1 x invalid JSON); nothing was written\n"),
        ([{"question": "q"}], "give the names of your fields with --map-keys, or another --handler-name"),
    ],
)
def test_nothing_kept_is_an_error_without_files(run, capsys, records, message):
    assert run(records) == 2
    assert message in capsys.readouterr().err
    assert files_in() == []


def test_seq_length_drops_a_pair_at_that_length_and_keeps_one_below(run):
    assert run([GOOD], prefix="all") == 0
    longest = max(len(row) for row in rows_of("all", "chosen_input_ids"))
    short = {**GOOD, "chosen": "no"}
    assert run([GOOD, short], "--seq-length", str(longest), prefix="some") == 0
    assert len(rows_of("some", "chosen_input_ids")) == 1
    assert open_dataset(Path("some")).manifest.dropped == {f"not shorter than --seq-length {longest}": 1}
    assert run([GOOD, short], "--seq-length", str(longest + 1), prefix="both") == 0
    assert len(rows_of("both", "chosen_input_ids")) == 2


def test_summary_counts_what_is_kept_dropped_and_odd(run, capsys):
    equal = {**GOOD, "rejected": GOOD["chosen"]}
    assert run([GOOD, equal, {**GOOD, "rejected": ""}, "{"]) == 0
    output = capsys.readouterr().out
    for line in (
        r"records read                4",
        r"pairs kept                  3",
        r"dropped                     1",
        r"1  with an empty answer",
        r"1  with equal responses",
        r"x_manifest.json",
    ):
        assert line in output
    manifest = open_dataset(Path("x")).manifest
    rows = rows_of("x", "chosen_input_ids") + rows_of("x", "rejected_input_ids")
    assert manifest.num_tokens == sum(map(len, rows))
    assert manifest.longest == max(map(len, rows))


def test_sharegpt_array_in_a_directory(run):
    os.mkdir("data")
    record = {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "c"},
        "rejected": {"from": "gpt", "value": "r"},
    }
    Path("data/a.json").write_text(json.dumps([record, record]))
    flags = ["--handler-name", "SharegptStylePairwiseHandler", "--input", "data"]
    assert run([], *flags) == 0
    assert len(rows_of("x", "chosen_labels")) == 2
    assert run([], *flags, prefix="data/x") == 0
    assert run([], *flags, prefix="data/x") == 0  # its own manifest is no input
    assert len(rows_of("data/x", "chosen_labels")) == 2


def test_a_field_of_map_keys_that_is_not_there_is_warned_of(run, capsys):
    assert run([GOOD], "--map-keys", '{"query": "contxt"}') == 0
    assert "--map-keys names a field 'contxt', which in.jsonl:1 does not have" in capsys.readouterr().err


def test_a_field_of_map_keys_that_responses_have_is_not_warned_of(run, capsys):
    completions = [{"text": "a", "mark": 1.0}, {"text": "b", "mark": 2.0}]
    map_keys = '{"responses": "completions", "response": "text", "rating": "mark", "rank": "plce"}'
    flags = ["--handler-name", "RankedResponsesHandler", "--map-keys", map_keys]
    assert run([{"prompt": "q", "completions": completions}], *flags) == 0
    told = capsys.readouterr().err
    assert "names a field 'plce', which in.jsonl:1 does not have" in told
    assert told.count("--map-keys names a field") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--handler-name", "AlpacaHandler"], "unknown --handler-name 'AlpacaHandler'; did you mean Alpaca"),
        (["--prompt-type", "lama2"], "unknown --prompt-type 'lama2'; did you mean llama2? (choices: alpaca,"),
        (["--prompt-type", "qwen"], "--prompt-type qwen needs the special token <|im_end|>"),
        (["--map-keys", "{"], """--map-keys must be a JSON object such as '{"prompt": "question"}': """),
        (["--input", "nowhere.json"], "--input nowhere.json does not exist"),
        (["--output-prefix", "dir/"], "--output-prefix 'dir/' must end in a name"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--seq-length", "0"], "--seq-length must be at least 1"),
        (["--seq-length", "x"], "must be a whole number, got 'x'"),
        (["--seq-lenght", "8"], "unknown flag --seq-lenght; did you mean --seq-length?"),
        (["--tokenizer-name-or-path", "nowhere"], "--tokenizer-name-or-path nowhere does not exist"),
        (["--tokenizer-type", "GPT2BPETokenizer"], "--tokenizer-type GPT2BPETokenizer is not supported"),
        (["--tokenizer-type", "HF"], "unknown --tokenizer-type 'HF'"),
        (["--output-prefix", "in.jsonl/x"], "in.jsonl"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, capsys, flags, message):
    assert run([GOOD], *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1 + ("--input" in flags)  # `run` gives it too, which is told
    assert files_in() == []


def test_flags_without_meaning_for_pairs_are_accepted_with_a_warning(run, capsys):
    flags = [
        "--append-eod",
        "--n-subs",
        "4",
        "--dataset-impl",
        "mmap",
        "--overwrite-cache",
        "--cache-dir",
        "c",
    ]
    assert run([GOOD], *flags) == 0
    warnings = capsys.readouterr().err.splitlines()
    names = ["--append-eod", "--n-subs", "--dataset-impl", "--overwrite-cache", "--cache-dir"]
    assert sorted(line.split()[1] for line in warnings) == sorted(names)


def test_an_earlier_data_set_stays_until_the_new_one_is_whole(run):
    assert run([GOOD]) == 0
    before = {name: Path(name).read_bytes() for name in files_in()}
    assert run(["{"]) == 2
    assert {name: Path(name).read_bytes() for name in files_in()} == before
    assert run([GOOD, GOOD]) == 0
    assert open_dataset(Path("x")).manifest.num_kept == 2


def test_help_answers_at_once_without_the_heavy_packages():
    code = (
        "import sys\n"
        "from modellink_rm.base.errors import run_command\n"
        "from modellink_rm.commands.preprocess import main\n"
        "try:\n    run_command(main, ['--help'])\n"
        "finally:\n"
        "    heavy = {'torch', 'transformers', 'numpy', 'tokenizers', 'sentencepiece'} & sys.modules.keys()\n"
        "    assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--output-prefix" in result.stdout


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_only_its_parts(tmp_path, sentencepiece_path, signal_number, workers):
    process = started_run(tmp_path, sentencepiece_path, workers, signal.SIG_DFL)
    process.send_signal(signal_number)
    check_interrupted(process, tmp_path)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_in_the_background_outlives_ctrl_c_and_ends_by_sigterm(tmp_path, sentencepiece_path, workers):
    # A shell without job control starts `command &` with SIGINT ignored, so that Ctrl-C is not for it.
    process = started_run(tmp_path, sentencepiece_path, workers, signal.SIG_IGN)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.3)
    process.send_signal(signal.SIGTERM)
    check_interrupted(process, tmp_path)


def started_run(directory, sentencepiece_path, workers, on_interruption):
    """A run of several seconds that has begun to write, SIGINT set as the process that starts it would.

    It is set here because a child inherits an ignored SIGINT: the tests may run in the background.
    """
    line = json.dumps({**GOOD, "chosen": "long " * 3000}) + "\n"
    (directory / "in.jsonl").write_text(line * 3000)
    words = "--input in.jsonl --output-prefix out/x --handler-name AlpacaStylePairwiseHandler"
    words += f" --prompt-type llama2 --tokenizer-model {sentencepiece_path} --workers {workers}"
    own = signal.signal(signal.SIGINT, on_interruption)
    try:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *words.split()], cwd=directory, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, own)
    out = directory / "out"
    while not (out.exists() and any(path.stat().st_size for path in out.iterdir())):
        assert process.poll() is None
        time.sleep(0.02)
    return process


def check_interrupted(process, directory):
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "interrupted: nothing was written; --resume continues from what was done\n"
    assert os.listdir(directory / "out") == [".x.parts"]


def test_items_and_results_larger_than_a_connection_holds_come_in_order():
    items = [bytes([number]) * (3 << 20) for number in range(12)]
    assert list(ordered_map(GivesBack(), items, workers=3)) == items


def test_a_worker_that_dies_is_an_error():
    with pytest.raises(UserError, match="a process of --workers died"):
        list(ordered_map(DiesOutsideOf(os.getpid()), range(8), workers=3))


def test_an_error_of_a_worker_says_where_it_was_raised():
    """Also one of a class that cannot be pickled, as a handler of the user may raise: no process died."""
    with pytest.raises(RuntimeError, match="OddError: of 1 and 2") as raised:
        list(ordered_map(FailsOutsideOf(os.getpid()), range(8), workers=3))
    assert "in __call__" in raised.value.__notes__[0]


class FailsOutsideOf:
    """Fails in every other process, by an error that pickle does not make again of its message."""

    def __init__(self, own: int) -> None:
        self.own = own

    def __call__(self, item: int) -> int:
        if os.getpid() != self.own:
            raise OddError(1, 2)
        time.sleep(0.01)
        return item


class OddError(Exception):
    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"of {one} and {other}")


class DiesOutsideOf:
    def __init__(self, first_process):
        self.first_process = first_process

    def __call__(self, item):
        if os.getpid() != self.first_process:
            os.kill(os.getpid(), signal.SIGKILL)
        return item


def test_workers_end_when_the_first_process_is_killed(tmp_path):
    code = (
        "import os, signal, time\n"
        "from modellink_rm.preprocess.executor.local import ordered_map\n"
        "from tests.unit.preprocess.test_pipeline import GivesBack\n"
        "if __name__ == '__main__':\n"
        "    for _ in ordered_map(GivesBack(), range(8), workers=2):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "killed.py").write_text(code)
    root = Path(__file__).parents[3]
    # Returns when the last of the processes that share the pipes has ended, workers included.
    result = subprocess.run(
        [sys.executable, "killed.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == -signal.SIGKILL


class GivesBack:
    def __call__(self, item):
        return item
