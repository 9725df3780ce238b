"""Constraints for pip that hold every declared dependency at its lower bound: `make test-oldest`.

Read from pyproject.toml, so that they cannot differ from what is declared. The developer's own tools are
left at their newest: their versions do not reach users.
"""

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_LOWER_BOUND = re.compile(r"([A-Za-z0-9_.-]+)\s*(?:>=|~=)\s*([0-9][0-9.]*)")


def lower_bounds() -> list[str]:
    """`name==version` for each dependency of the package and of the extras that users install."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [
        *project["dependencies"],
        *(line for name in extras if name != "dev" for line in extras[name]),
    ]
    found = []
    for line in declared:
        bound = _LOWER_BOUND.match(line)
        if bound is None:
            raise SystemExit(f"error: {line!r} in pyproject.toml has no lower bound")
        found.append(f"{bound[1]}=={bound[2]}")
    return found


if __name__ == "__main__":
    print("\n".join(lower_bounds()))
