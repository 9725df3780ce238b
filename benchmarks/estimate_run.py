"""One process of a run of `benchmarks/estimate.py`: OUTPUT, then the flags of pretrain_rm.py.

Writes OUTPUT's name with the rank for its suffix: bytes estimated, and measured over those after all imports.
"""

import json
import os
import re
import sys
from pathlib import Path

from modellink_rm.base.log import set_up_logging
from modellink_rm.commands.train import run_config
from modellink_rm.estimate.memory import CPU, memory_of
from modellink_rm.train.memory import workload_of
from modellink_rm.train.plan import plan_run
from modellink_rm.train.run import run


def resident_bytes(field: str) -> int:
    """A field of this process's memory as the kernel counts it: VmRSS now, VmHWM at most."""
    found = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def main(output: Path, words: list[str]) -> None:
    """Run, and write what was estimated and measured."""
    set_up_logging()
    config = run_config(words)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    plan = plan_run(config, world_size=world_size)
    estimated = memory_of(workload_of(plan, CPU, world_size=world_size, compiles_elementwise=False)).peak
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    run(config)
    measured = resident_bytes("VmHWM") - before
    rank = os.environ.get("RANK", "0")
    output.with_suffix(f".{rank}").write_text(json.dumps({"estimated": estimated, "measured": measured}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
