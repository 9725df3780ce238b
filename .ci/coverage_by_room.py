"""Lines that the tests run, by room: `make coverage`. Exit code 1 under the bound."""

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Lines:
    """How many lines there are, and how many of them ran."""

    total: int = 0
    run: int = 0

    @property
    def percent(self) -> float:
        """Of the lines that ran."""
        return 100 * self.run / self.total if self.total else 100.0


def lines_by_room(report: Path) -> dict[str, Lines]:
    """Lines of each room of modellink_rm, from coverage.py's JSON report."""
    rooms: dict[str, Lines] = defaultdict(Lines)
    for path, file in json.loads(report.read_text())["files"].items():
        room = rooms[Path(path).parts[1].removesuffix(".py")]
        room.total += file["summary"]["num_statements"]
        room.run += file["summary"]["covered_lines"]
    return dict(sorted(rooms.items()))


def main() -> int:
    """Print the table; 1 where all lines together are under the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--fail-under", type=float, required=True, help="per cent of all lines")
    arguments = parser.parse_args()
    rooms = lines_by_room(arguments.report)
    whole = Lines(sum(room.total for room in rooms.values()), sum(room.run for room in rooms.values()))
    print(f"{'room':14} {'lines':>6} {'not run':>8} {'run':>7}")
    for name, room in [*rooms.items(), ("all", whole)]:
        print(f"{name:14} {room.total:6} {room.total - room.run:8} {room.percent:6.1f}%")
    return int(whole.percent < arguments.fail_under)


if __name__ == "__main__":
    raise SystemExit(main())
