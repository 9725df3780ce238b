"""docker/Dockerfile, which nothing here builds: what it copies exists, and what it runs parses."""

import json
import re
import tomllib
from pathlib import Path

from modellink_rm.base.flags import parse_flags
from modellink_rm.commands.serve import GROUPS
from modellink_rm.config.score import ScorerConfig
from modellink_rm.config.serve import ServeConfig

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def words_of(instruction: str) -> list[str]:
    (line,) = (line for line in LINES if line.startswith(f"{instruction} "))
    found: list[str] = json.loads(line.removeprefix(instruction))
    return found


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    sources = [word for line in LINES if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert len(sources) > 3
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in kept


def test_what_is_installed_is_what_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = "\n".join(LINES)
    (extra,) = re.findall(r"'\.\[(\w+)\]'", text)
    assert extra in project["optional-dependencies"]
    (torch,) = re.findall(r"torch==[\d.]+", text)
    assert torch in (ROOT / "Makefile").read_text()


def test_the_server_that_it_starts_is_ours_and_asks_for_a_token() -> None:
    program, command, *flags = words_of("ENTRYPOINT")
    assert (program, command) == ("modellink-rm", "serve")
    for last in (words_of("CMD"), ["--without-token"]):
        parsed = parse_flags([*flags, *last], (ServeConfig, *GROUPS.values()), prog="", description="")
        assert parsed[ServeConfig].host == "0.0.0.0"
        assert parsed[ScorerConfig].load == "/model"
