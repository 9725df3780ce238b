"""requirements/ci.txt holds what pyproject.toml asks for, each by version and hash."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements/ci.txt").read_text()
LOCKED = {canonicalize_name(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==([\w.]+)", LOCK)}


def test_every_declared_dependency_but_torch_is_locked_within_its_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        *project["dependencies"],
        *(
            one
            for extra in ("plot", "arrow", "zstd", "serve", "dev")
            for one in project["optional-dependencies"][extra]
        ),
    ]
    declared = [Requirement(line) for line in lines]
    for requirement in declared:
        if requirement.name not in ("torch", "modellink-rm"):
            assert LOCKED[canonicalize_name(requirement.name)] in requirement.specifier


def test_every_version_has_a_hash_and_none_brings_a_gpus_libraries() -> None:
    for block in re.split(r"(?m)^(?=[\w.-]+==)", LOCK)[1:]:
        assert "--hash=sha256:" in block
    assert not [name for name in LOCKED if name.startswith(("nvidia", "torch", "triton"))]
