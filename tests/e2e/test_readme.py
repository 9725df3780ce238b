"""The pages for users: every flag, file, target and link that they name is there."""

import dataclasses
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.flags import build_parser, parse_flags, with_first_flag
from modellink_rm.checkpoint.contract import InferenceContract
from modellink_rm.commands.generate import GROUPS as GENERATE_GROUPS
from modellink_rm.commands.registry import COMMANDS as REGISTERED_COMMANDS
from modellink_rm.commands.score import GROUPS as SCORER_GROUPS
from modellink_rm.commands.train import GROUPS
from modellink_rm.config.average import AverageConfig
from modellink_rm.config.doctor import DoctorConfig
from modellink_rm.config.estimate import EstimateConfig
from modellink_rm.config.evaluate import EvaluateConfig
from modellink_rm.config.export import ExportConfig, ImportConfig
from modellink_rm.config.ignored import IGNORED_TRAINER_FLAGS
from modellink_rm.config.inspect import InspectConfig
from modellink_rm.config.lora import LoraConfig
from modellink_rm.config.merge import MergeConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.preprocess import IGNORED_FLAGS, PreprocessConfig
from modellink_rm.config.report import ReportConfig
from modellink_rm.config.score import ScoreConfig
from modellink_rm.config.selection import BestOfNConfig, FilterConfig, MakePairsConfig
from modellink_rm.config.serve import ServeConfig
from modellink_rm.config.study import StudyConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.handlers import HANDLERS, make_handler
from modellink_rm.objective.choice import choose_objective
from modellink_rm.templates.files import definition_of
from modellink_rm.templates.table import TEMPLATES
from modellink_rm.train.console import FullConsole, TerminalConsole

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMANDS: dict[str, Any] = {
    "preprocess_data.py": ((PreprocessConfig, TokenizerConfig), IGNORED_FLAGS),
    "pretrain_rm.py": (tuple(GROUPS.values()), IGNORED_TRAINER_FLAGS),
    "score": ((ScoreConfig, *SCORER_GROUPS.values()), {}),
    "evaluate": ((EvaluateConfig, *SCORER_GROUPS.values()), {}),
    "generate": (GENERATE_GROUPS, {}),
    "study": ((StudyConfig,), {}),
    "best-of-n": ((BestOfNConfig,), {}),
    "filter": ((FilterConfig,), {}),
    "make-pairs": ((MakePairsConfig,), {}),
    "serve": ((ServeConfig, *SCORER_GROUPS.values()), {}),
    "export": ((ExportConfig, ParallelConfig), {}),
    "estimate": ((EstimateConfig, LoraConfig, ModelConfig), IGNORED_TRAINER_FLAGS),
    "report": ((ReportConfig,), {}),
    "average": ((AverageConfig, ParallelConfig), {}),
    "import": ((ImportConfig, TokenizerConfig, ParallelConfig), {}),
}
# Commands that pages describe in their text alone.
DESCRIBED: dict[str, Any] = {
    "preprocess_data.py --merge-shards": ((MergeConfig,), {}),
    "inspect": ((InspectConfig, TokenizerConfig), {}),
    "doctor": ((DoctorConfig,), {}),
}
# Of torchrun, pytest and other programs that the pages call.
FOREIGN_FLAGS = {
    *("--standalone", "--nproc_per_node", "--local-dir", "--system-site-packages"),
    *(
        "--runner",
        "--max-model-len",
        "--model-path",
        "--model",
        "--dtype",
        "--enforce-eager",
        "--is-embedding",
    ),
    # Of trainers that ask the server for rewards.
    *("--dataset", "--dataset_probs", "--max_samples"),
    *("--reward", "--rm-type", "--rm-url", "--reward-key", "--apply-chat-template"),
}
# ModelLink's, of which README.md says that they are errors here.
REFUSED_FLAGS = {
    "--fp16",
    "--mix-strategy",
    "--interleave-probs",
    "--reward-tokens",
}
_FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """A command that a page shows: the program, with the words before and after it."""

    page: Path
    before: tuple[str, ...]
    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.name}-{self.program}"


def flags_of(program: str) -> set[str]:
    groups, ignored = {**COMMANDS, **DESCRIBED}[program]
    parser = build_parser(groups, prog=program, description="")
    return {option for action in parser._actions for option in action.option_strings} | set(ignored)


def benchmark_flags() -> set[str]:
    scripts = [*(ROOT / "benchmarks").glob("*.py"), ROOT / "benchmarks" / "gpu_check" / "__main__.py"]
    return {flag for script in scripts for flag in re.findall(r'"(--[a-z0-9-]+)"', script.read_text())}


@pytest.mark.parametrize("program", sorted({**COMMANDS, **DESCRIBED}))
def test_help_says_what_kind_of_value_a_flag_takes(program: str) -> None:
    groups, _ = {**COMMANDS, **DESCRIBED}[program]
    actions = build_parser(groups, prog=program, description="")._actions
    # Without a word of its own argparse repeats the flag's name: `--load LOAD`.
    assert [action.dest for action in actions if action.nargs != 0 and action.metavar is None] == []


def shown_commands() -> list[Command]:
    """Every whole command of a bash block, and of an indented line."""
    commands = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = [content for language, content in _FENCE.findall(text) if language == "bash"]
        blocks += re.findall(r"^    ((?:python|torchrun|bash) .*)$", _FENCE.sub("", text), re.MULTILINE)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            words = tuple(shlex.split(line, comments=True))
            for index, word in enumerate(words):
                is_command = word in COMMANDS and words[index - 1] == "modellink_rm"
                if is_command or word.endswith(".sh") or word in ("preprocess_data.py", "pretrain_rm.py"):
                    commands.append(Command(page, words[:index], word, words[index + 1 :]))
                    break
    return commands


SHOWN = shown_commands()


def of_package(commands: list[Command]) -> list[Command]:
    return [command for command in commands if command.program in COMMANDS]


def test_pages_show_every_command() -> None:
    assert {command.program for command in SHOWN} >= {
        *COMMANDS,
        "examples/reward_chatglm3_6B.sh",
        "examples/reward_llama2_7B.sh",
    }


@pytest.mark.parametrize("command", of_package(SHOWN), ids=str)
def test_shown_command_parses(command: Command) -> None:
    groups, ignored = COMMANDS[command.program]
    first = {"report": "--run", "average": "--load"}.get(command.program)
    words = with_first_flag(command.words, first) if first is not None else command.words
    parsed = parse_flags(words, groups, prog="test", description="", ignored=ignored)
    for group in parsed.values():
        if getattr(group, "prompt_type", None):
            assert group.prompt_type in TEMPLATES
        if getattr(group, "handler_name", None):
            make_handler(group.handler_name, group.map_keys)


@pytest.mark.parametrize(
    "command", [command for command in SHOWN if command.program.endswith(".sh")], ids=str
)
def test_shown_script_knows_its_settings_and_flags(command: Command) -> None:
    script = ROOT / command.program
    text = script.read_text() + "".join(
        (ROOT / "examples" / name).read_text() for name in ("launch_reward.sh", "torchrun.sh")
    )
    for word in command.before:
        name, is_setting, _ = word.partition("=")
        if is_setting:
            assert re.search(rf"\$\{{{name}\b", text), f"{command.program} does not read {name}"
    assert {word for word in command.words if word.startswith("--")} <= flags_of("pretrain_rm.py")


def test_settings_in_the_readme_are_read_by_the_scripts() -> None:
    text = "".join(path.read_text() for path in (ROOT / "examples").glob("*.sh"))
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`([A-Z][A-Z_]+)`", row)}
    assert len(names) > 15
    assert [name for name in sorted(names) if not re.search(rf"\$\{{{name}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_of_the_page_is_known(page: Path) -> None:
    known = (
        set.union(*map(flags_of, [*COMMANDS, *DESCRIBED])) | benchmark_flags() | FOREIGN_FLAGS | REFUSED_FLAGS
    )
    assert set(_FLAG.findall(page.read_text(encoding="utf-8"))) - known == set()


def test_flags_that_the_readme_calls_errors_are_unknown() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(_FLAG.findall(readme)) >= REFUSED_FLAGS
    for program in COMMANDS:
        assert flags_of(program) & REFUSED_FLAGS == set()


def test_readme_names_every_ignored_flag() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {*IGNORED_FLAGS, *IGNORED_TRAINER_FLAGS} - set(_FLAG.findall(readme)) == set()


def test_rows_of_flags_by_task_name_flags_of_their_commands() -> None:
    programs = {"preprocess": "preprocess_data.py", "train": "pretrain_rm.py"}
    named = (
        "score",
        *("estimate", "evaluate", "generate", "study", "make-pairs", "report"),
        *("export", "import", "average", "serve", "inspect"),
    )
    programs |= {name: name for name in named}
    section = (ROOT / "README.md").read_text().split("## Flags by task")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([a-z, ]+) \| (.+) \|$", section, re.MULTILINE)
    rows = [row for row in rows if row[1] != "command"]
    assert len(rows) > 15
    for task, commands, flags in rows:
        for name in commands.split(", "):
            assert set(_FLAG.findall(flags)) <= flags_of(programs[name]), f"{task}: {name}"


def test_data_page_names_every_template_and_handler() -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert [name for name in TEMPLATES if f"`{name}`" not in text] == []
    assert [name for name in HANDLERS if name not in text] == []


def test_checkpoints_page_shows_every_field_of_the_contract() -> None:
    page = (ROOT / "docs/checkpoints.md").read_text()
    shown = next(json.loads(text) for kind, text in _FENCE.findall(page) if kind == "json")
    names = [field.name for field in dataclasses.fields(InferenceContract)]
    # Which are there where the model has them, and the page says so.
    optional = ["attributes", "placeholder_token", "normalization"]
    assert [*shown, *optional] == names
    assert all(f'`"{name}"`' in page for name in optional)
    template = TEMPLATES[shown["prompt_type"]]
    assert shown["template_fingerprint"] == template.fingerprint
    assert shown["template_definition"] == json.loads(json.dumps(definition_of(template)))


def test_readme_names_every_command_of_the_package() -> None:
    (line,) = (line for line in (ROOT / "README.md").read_text().splitlines() if "the two commands" in line)
    assert not [name for name in REGISTERED_COMMANDS if f"`{name}`" not in line]


def test_changelog_says_nothing_twice_and_its_first_version_changes_nothing() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    entries = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(set(entries)) == len(entries)
    first = text.partition("## [0.1.0]")[2]
    assert "### Changed" not in first
    assert "### Fixed" not in first


def anchors_of(page: Path) -> set[str]:
    """The names by which GitHub links to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower().strip()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_name_headings_that_exist(page: Path) -> None:
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, is_named, anchor = link.partition("#")
        target = page.parent / path if path else page
        if is_named and "://" not in link and target.suffix == ".md" and anchor not in anchors_of(target):
            missing.append(link)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_of_the_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    top = "modellink_rm|examples|tests|docs|benchmarks|\\.ci"
    named = re.findall(rf"(?<![\w/.])(?:{top})/[\w./-]+", text)
    assert [path for path in named if not (ROOT / path.rstrip(".")).exists()] == []


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for targets in re.findall(
            r"(?:^ {4}|`)make ([a-z -]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            for target in targets.split():
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_pages_name_no_path_of_a_machine() -> None:
    for page in PAGES:
        found = re.findall(r"(?<![\w.])/(?:work|home|tmp|root|usr)/\S*", page.read_text(encoding="utf-8"))
        assert found == [], page.name


def test_readme_shows_the_line_of_a_log_step_as_a_terminal_and_a_file_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    row = json.loads(re.search(r'^\{"iteration".*\}$', readme, re.MULTILINE)[0])
    names = ("loss", "accuracy", "chosen_score", "rejected_score", "margin")
    metrics = {name: row[name] for name in names}
    labels = choose_objective("sigmoid").labels
    full = FullConsole(train_iters=60, batch_size=16, first_iteration=0, labels=labels)
    full.step(row, metrics, milliseconds=486.7)
    assert capsys.readouterr().out.rstrip() in readme
    monkeypatch.setenv("COLUMNS", "72")  # the figures that do not depend on the clock, and one that does
    monkeypatch.setenv("NO_COLOR", "1")
    short = TerminalConsole(train_iters=60, first_iteration=0, labels=labels)
    short.step(row, metrics, milliseconds=486.7)
    assert capsys.readouterr().out.split("  tok/s")[0].rstrip() in readme
