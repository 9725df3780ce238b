"""Layers import downwards only; what must start fast imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "modellink_rm"

# What each layer may import beside itself: everything before it.
LAYERS = (
    {"errors", "registry", "log", "flags", "atomic", "lock"},
    {"config"},
    {"platform", "cuda_on_cpu"},
    {"parallel"},
    {"data", "model"},
    {"objective", "checkpoint"},
    {"train", "score"},
    {"train_command", "score_command", "preprocess_command", "inspect_command", "__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported_modules(path: Path) -> set[str]:
    """Parts of this package that a file imports, by their first name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        found |= {name.split(".")[1] for name in names if name.startswith("modellink_rm.")}
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_downwards(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for other in imported_modules(path) - {part}:
        assert LEVEL[other] <= LEVEL[part], f"{path.name} of {part} imports {other}"
        assert {part, other} != {"train", "score"}, "score and train do not know each other"


@pytest.mark.parametrize(
    "module", ["preprocess_command", "train_command", "score_command", "data.preprocess"]
)
def test_command_starts_without_torch(module: str) -> None:
    code = f"import sys, modellink_rm.{module}; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_the_platform_asks_for_a_gpu() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name not in ("platform.py", "cuda_on_cpu.py"):
            assert "is_available()" not in path.read_text(), path
