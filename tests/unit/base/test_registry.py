import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.base.registry import Registry, unknown_name_message


@pytest.fixture
def registry() -> Registry[Any]:
    names: Registry[Any] = Registry("--color")
    names.add(1, "red", "crimson")
    names.add(2, "blue")
    return names


def test_an_entry_is_known_by_each_of_its_names(registry: Registry[Any]) -> None:
    assert (registry["red"], registry["crimson"], registry["blue"]) == (1, 1, 2)
    assert sorted(registry) == ["blue", "crimson", "red"]
    assert len(registry) == 3


def test_an_unknown_name_lists_the_choices_and_the_nearest(registry: Registry[Any]) -> None:
    with pytest.raises(
        UserError, match=r"unknown --color 'bleu'; did you mean blue\? \(choices: blue, crimson, red\)"
    ):
        registry["bleu"]


def test_a_name_like_no_other_has_no_nearest() -> None:
    assert unknown_name_message("--x", "zzz", ["b", "a"]) == "unknown --x 'zzz' (choices: a, b)"


def test_a_name_cannot_be_given_twice(registry: Registry[Any]) -> None:
    with pytest.raises(AssertionError, match="red is registered twice"):
        registry.add(3, "red")


def test_a_registry_of_files_the_user_did_not_type_suggests_nothing() -> None:
    families: Registry[int] = Registry("model_type", suggests=False)
    families.add(1, "qwen2")
    with pytest.raises(UserError, match=r"^unknown model_type 'qwen3' \(choices: qwen2\)$"):
        families["qwen3"]


@pytest.fixture
def plug_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with a registry and one entry a file, and an installed one that offers another entry."""
    package = tmp_path / "paints"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "registry.py").write_text(
        "from modellink_rm.base.registry import Registry\n"
        "PAINTS = Registry('--paint', package='paints', entry_points='paints.more',\n"
        "    accepts=lambda paint: isinstance(paint, int), expected='a number')\n"
    )
    (package / "green.py").write_text("from paints.registry import PAINTS\nPAINTS.add(3, 'green')\n")
    (tmp_path / "other.py").write_text("OCHRE = 4\nBRUSH = 'flat'\n")
    points = "ochre = other:OCHRE\nbrush = other:BRUSH\nlost = other:LOST\nabsent = no_such:RED\n"
    broken = "raises = raising:RED\nexits = exiting:RED\nhalf = half_written:RED\n"
    (tmp_path / "raising.py").write_text("raise RuntimeError('two\\nlines')\n")
    (tmp_path / "exiting.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "half_written.py").write_text("RED = (\n")
    offers = {"other": points + broken + "both = other:OCHRE\n", "second": "both = second:OCHRE\n"}
    for name, entries in offers.items():
        metadata = tmp_path / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[paints.more]\n{entries}")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("paints", "other")]:
        del sys.modules[name]


@pytest.mark.usefixtures("plug_ins")
def test_a_file_of_the_package_adds_itself_at_the_first_look() -> None:
    from paints.registry import PAINTS  # type: ignore[import-not-found]

    assert "paints.green" not in sys.modules
    assert "green" in PAINTS
    assert PAINTS["green"] == 3


@pytest.mark.usefixtures("plug_ins")
def test_an_installed_package_offers_an_entry_that_is_imported_when_used() -> None:
    from paints.registry import PAINTS

    assert sorted(PAINTS) == ["absent", "both", "brush", "exits", "green", "half", "lost", "ochre", "raises"]
    assert "other" not in sys.modules
    assert PAINTS["ochre"] == 4


@pytest.mark.usefixtures("plug_ins")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("brush", "^--paint brush: other:BRUSH of an installed package is not a number$"),
        ("lost", "^--paint lost: other:LOST of an installed package cannot be imported: .*LOST"),
        ("absent", "^--paint absent: no_such:RED of an installed package cannot be imported: .*no_such"),
        ("raises", "^--paint raises: raising:RED of an installed package cannot be imported: two lines$"),
        ("exits", "^--paint exits: exiting:RED of an installed package cannot be imported: 3$"),
        ("half", "^--paint half: half_written:RED of an installed package cannot be imported: '.' was never"),
        ("both", r"^--paint both: several installed packages offer it \(other:OCHRE, second:OCHRE\)"),
    ],
)
def test_an_entry_of_an_installed_package_that_cannot_be_used_is_one_line(name: str, message: str) -> None:
    from paints.registry import PAINTS

    with pytest.raises(UserError, match=message):
        PAINTS[name]
