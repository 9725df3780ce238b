"""The first half hour on a GPU: numbers, then speed, then memory, and TRL beside it.

    make gpu-check
    python -m benchmarks.gpu_check --only kernels losses

Every part is a process of its own with a time limit: one that fails or hangs leaves the others. The table is
printed, and gpu-report.json is written, after each part. --device cpu --tiny tries the parts themselves.

Exit code: 0 every part passed or was left out for want of a flag; 1 a part failed; 2 there is no GPU.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_check.parts import Outcome, Part, Setting, run_here, run_part
from modellink_rm.base.errors import UserError, run_command
from modellink_rm.base.files import write_whole
from modellink_rm.base.log import set_up_logging

# The cheapest and most telling first.
PARTS = {
    part.name: part
    for part in (
        Part(name="machine", module="numerics", seconds=120),
        Part(name="kernels", module="numerics", seconds=240),
        Part(name="losses", module="numerics", seconds=300),
        Part(name="syncs", module="numerics", seconds=60),
        Part(name="speed", module="speed", seconds=480),
        Part(name="profile", module="speed", seconds=120),
        Part(name="weight_gradients", module="speed", seconds=120),
        Part(name="lengths", module="speed", seconds=180),
        Part(name="checkpoint", module="speed", seconds=180),
        Part(name="trl", module="speed", seconds=420),
    )
}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="default all")
    parser.add_argument("--output", type=Path, default=Path("gpu-report.json"), help="(default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="sizes of a second, which measure nothing")
    parser.add_argument("--work-dir", type=Path, help="where models and checkpoints go for the while")
    parser.add_argument("--reference", type=Path, help="directory of make_models.py, for TRL")
    parser.add_argument("--data", type=Path, help="directory of dpo_en_demo.json, for TRL")
    parser.add_argument("--peers-dir", type=Path, help="environments of the trainers from pip, for TRL")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # run this one here
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    set_up_logging()
    if arguments.part is not None:
        run_here(PARTS[arguments.part], Setting.from_json(arguments.setting))
        return 0
    if arguments.device == "cuda":
        check_gpu()
    with tempfile.TemporaryDirectory(prefix="gpu-check-", dir=arguments.work_dir) as work:
        setting = Setting(
            device=arguments.device,
            is_tiny=arguments.tiny,
            work=Path(work),
            reference=arguments.reference and arguments.reference.resolve(),
            data=arguments.data and arguments.data.resolve(),
            peers=arguments.peers_dir and arguments.peers_dir.resolve(),
        )
        outcomes = run_parts([PARTS[name] for name in arguments.only], setting, arguments.output)
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


def check_gpu() -> None:
    """A GPU is there.

    Raises:
        UserError: torch finds none.
    """
    from modellink_rm.base.platform import num_gpus, why_no_gpu

    if not num_gpus():
        raise UserError(why_no_gpu() or "gpu-check needs a GPU, and this machine shows none")


def run_parts(parts: Sequence[Part], setting: Setting, output: Path) -> list[Outcome]:
    """How each part ended; printed, and written to `output`, as they end."""
    outcomes: list[Outcome] = []
    print(f"{'part':18s}{'':9s}{'seconds':>8s}  found")
    for part in parts:
        outcome = run_part(part, setting)
        outcomes.append(outcome)
        print(f"{outcome.name:18s}{outcome.status:9s}{outcome.seconds:8.1f}  {outcome.summary}", flush=True)
        write_report(outcomes, setting, output)
    print(f"report: {output}")
    return outcomes


def write_report(outcomes: Sequence[Outcome], setting: Setting, output: Path) -> None:
    content = {
        "device": setting.device,
        "is_tiny": setting.is_tiny,
        "passed": all(outcome.status != "failed" for outcome in outcomes),
        "parts": [dataclasses.asdict(outcome) for outcome in outcomes],
    }
    write_whole(output, json.dumps(content, indent=1).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
