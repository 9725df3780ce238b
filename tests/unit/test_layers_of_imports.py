"""The house: imports point downwards, no circle of files, no room too large, a fast start without torch."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "modellink_rm"

# Every room, and what it may import beside itself: the rooms of the levels before its own.
LEVELS = (
    ("base", "version"),
    ("config", "conversation"),
    ("records", "tokenizers"),
    ("handlers", "templates"),
    ("dataset",),
    ("preprocess", "parallel"),
    ("batching",),
    ("model",),
    ("objective", "checkpoint"),
    ("train", "inference"),
    ("commands",),
    ("__main__", "__init__"),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Reading records, templates and tokenizers starts in a tenth of a second, so it does without torch.
WITHOUT_TORCH = ("conversation", "records", "handlers", "tokenizers", "templates", "dataset", "preprocess")
LARGEST_SHARE = 0.2

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_files(path: Path, *, only_at_start: bool = False) -> set[Path]:
    """Files of this package that a file imports.

    Args:
        only_at_start: leave out what functions import when they are called, and what only types need.
    """
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        is_late = isinstance(node, ast.FunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        if only_at_start and is_late:
            skipped.update(ast.walk(node))
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` names a file too.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            if names[1] in MODULES:
                del names[0]
        else:
            continue
        found |= {MODULES[name] for name in names if name in MODULES}
    return found - {path}


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
    for command in ("preprocess", "inspect", "train", "score"):
        assert f"\n  {command} " in done.stdout


def test_rooms_before_training_need_no_torch() -> None:
    for path in FILES:
        if room_of(path) in WITHOUT_TORCH:
            names = {name.split(".")[0] for name in _absolute_imports(path)}
            assert not names & {"torch", "megatron"}, path


def _absolute_imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def test_only_the_platform_asks_for_a_gpu() -> None:
    for path in FILES:
        if path.name not in ("platform.py", "cuda_on_cpu.py"):
            assert "is_available()" not in path.read_text(), path
