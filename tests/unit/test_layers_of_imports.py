"""The house: imports point downwards, no circle of files, no room too large, a fast start without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "modellink_rm"

# Every room, and what it may import beside itself: the rooms of the levels before its own.
LEVELS = (
    ("base", "version"),
    ("config", "conversation", "metrics"),
    ("records", "tokenizers"),
    ("handlers", "templates"),
    ("dataset",),
    ("preprocess", "parallel", "report"),
    ("batching",),
    ("adapters",),
    ("experts",),
    ("model",),
    ("objective", "checkpoint", "estimate"),
    ("train", "inference", "conversion", "doctor"),
    ("evaluation", "serving", "generation"),
    ("commands",),
    ("__main__", "__init__"),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Reading records, templates and tokenizers starts in a tenth of a second, so it does without torch.
WITHOUT_TORCH = (
    "conversation",
    "metrics",
    "records",
    "handlers",
    "tokenizers",
    "templates",
    "dataset",
    "preprocess",
    "report",
)
LARGEST_SHARE = 0.2

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def package_of(path: Path) -> str:
    """The dotted name that relative imports in a file start from."""
    return ".".join(path.relative_to(ROOT).parent.parts)


def imported_modules(source: str, package: str) -> set[str]:
    """Dotted names of the modules that a file of `package` imports, anywhere in it.

    `from package import name` imports the module `package.name` if there is such a file, else `package`.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            start = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            names = {f"{module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else module for name in names}
    return found


def imported_files(path: Path) -> set[Path]:
    """Files of this package that a file imports."""
    modules = imported_modules(path.read_text(), package_of(path))
    return {MODULES[name] for name in modules if name in MODULES} - {path}


def device_questions(source: str) -> set[str]:
    """The functions of torch by which a file finds out what devices there are."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
    return found & {"is_available", "device_count"}


def circle_from(start: Path, imports: dict[Path, set[Path]]) -> list[Path]:
    """A chain of imports from a file back to itself; empty where there is none."""
    paths = [[start]]
    seen = {start}
    while paths:
        chain = paths.pop()
        for other in imports[chain[-1]]:
            if other == start:
                return [*chain, start]
            if other not in seen:
                seen.add(other)
                paths.append([*chain, other])
    return []


def test_every_file_is_in_a_known_room() -> None:
    assert {room_of(path) for path in FILES} == set(LEVEL)


def test_imports_point_downwards() -> None:
    offences = [
        f"{path.relative_to(ROOT)} imports {other.relative_to(ROOT)}"
        for path in FILES
        for other in sorted(imported_files(path))
        if other != PACKAGE / "__init__.py" and room_of(other) != room_of(path)
        if LEVEL[room_of(other)] >= LEVEL[room_of(path)]
    ]
    assert offences == []


def test_no_files_import_each_other_in_a_circle() -> None:
    imports = {path: imported_files(path) for path in FILES}
    for path in FILES:
        chain = circle_from(path, imports)
        assert not chain, " -> ".join(str(step.relative_to(PACKAGE)) for step in chain)


def test_no_room_holds_more_than_a_fifth_of_the_lines() -> None:
    lines: dict[str, int] = {}
    for path in FILES:
        lines[room_of(path)] = lines.get(room_of(path), 0) + len(path.read_text().splitlines())
    largest = max(lines, key=lambda room: lines[room])
    share = lines[largest] / sum(lines.values())
    assert share <= LARGEST_SHARE, f"{largest} holds {share:.0%} of the lines"


def test_commands_are_listed_without_torch() -> None:
    code = "import sys; from modellink_rm.__main__ import main; sys.argv[1:] = []; main(); "
    code += "assert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for command in ("preprocess", "inspect", "train", "score", "evaluate", "serve"):
        assert f"\n  {command} " in done.stdout


def test_rooms_before_training_import_no_torch_directly_or_through_others() -> None:
    imports = {path: imported_modules(path.read_text(), package_of(path)) for path in FILES}
    for start in (path for path in FILES if room_of(path) in WITHOUT_TORCH):
        reached, waiting = {start}, [start]
        while waiting:
            path = waiting.pop()
            torch = {name for name in imports[path] if name.split(".")[0] in ("torch", "megatron")}
            assert not torch, f"{start} reaches {path}, which imports {torch}"
            new = {MODULES[name] for name in imports[path] if name in MODULES} - reached
            reached |= new
            waiting += new


def test_rooms_before_training_load_no_torch_when_they_are_imported() -> None:
    names = [name for name, path in MODULES.items() if room_of(path) in WITHOUT_TORCH]
    assert len(names) > len(WITHOUT_TORCH)
    code = "import importlib, sys\n"
    code += f"for name in {names}:\n"
    code += "    importlib.import_module(name)\n"
    code += "    assert 'torch' not in sys.modules, name\n"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_the_platform_asks_for_a_gpu() -> None:
    askers = {path.relative_to(PACKAGE) for path in FILES if device_questions(path.read_text())}
    assert askers == {Path("base/platform.py"), Path("base/cuda_on_cpu.py")}


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("import modellink_rm.model.shape", "modellink_rm.model.shape"),
        ("from modellink_rm.model.shape import ModelShape", "modellink_rm.model.shape"),
        ("from modellink_rm.model import shape, spec", "modellink_rm.model.spec"),
        ("from . import order", "modellink_rm.dataset.order"),
        ("from .order import SampleOrder", "modellink_rm.dataset.order"),
        ("from .. import conversation", "modellink_rm.conversation"),
        ("from ..model import spec as other", "modellink_rm.model.spec"),
        ("def late():\n    from ..model.spec import ModelSpec", "modellink_rm.model.spec"),
        ("from torch import Tensor", "torch"),
        ("import torch.nn as nn", "torch.nn"),
    ],
)
def test_imports_of_every_form_are_found(line: str, module: str) -> None:
    assert module in imported_modules(line, "modellink_rm.dataset")


@pytest.mark.parametrize(
    "line",
    [
        "torch.cuda.is_available()",
        "ask = torch.cuda.is_available",
        "torch.npu.device_count() > 0",
        "from torch.cuda import device_count as count",
        "cuda = torch.cuda\ncuda.is_available( )",
    ],
)
def test_questions_for_a_gpu_of_every_form_are_found(line: str) -> None:
    assert device_questions(line)


def test_use_of_the_current_device_is_no_question_for_a_gpu() -> None:
    assert not device_questions("torch.cuda.current_device()\n# torch.cuda.is_available()")
