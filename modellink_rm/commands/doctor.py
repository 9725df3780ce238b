"""python -m modellink_rm doctor: what this machine has for training, and what is wrong."""

from collections.abc import Sequence
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import write_whole
from modellink_rm.base.flags import parse_flags
from modellink_rm.base.log import set_up_logging
from modellink_rm.base.outputs import prepare_output
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.doctor import DoctorConfig
from modellink_rm.doctor.host import examine_host, host_problems
from modellink_rm.doctor.packages import broken_packages
from modellink_rm.doctor.report import DoctorReport, lines_of


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when nothing is wrong, 1 when something stops a run or makes it slow.

    Raises:
        UserError: the flags cannot work.
    """
    set_up_logging()
    config: DoctorConfig = parse_flags(
        argv,
        [DoctorConfig],
        prog="python -m modellink_rm doctor",
        description="Show versions, devices, drivers, compilers, the kernels that a run would use, measured "
        "speeds, memory and limits, and what is wrong, with the remedy. Exit code 0: nothing; 1: a problem.",
        example="python -m modellink_rm doctor --directory checkpoints",
    )[DoctorConfig]
    directory = Path(config.directory)
    if not directory.is_dir():
        raise UserError(f"--directory must be a directory, got {config.directory}")
    prepare_output(config.output, inputs=[])
    report = _report(directory)
    print(*lines_of(report), sep="\n", flush=True)
    if config.output is not None:
        write_whole(Path(config.output), report.to_json())
    return 1 if report.problems else 0


def _report(directory: Path) -> DoctorReport:
    """The report; of a machine whose packages are broken only what needs none of them."""
    broken = broken_packages()
    if broken:
        host = examine_host(directory)
        return DoctorReport(host=host, devices=None, kernels=None, problems=(*broken, *host_problems(host)))
    from modellink_rm.doctor.examine import examine

    return examine(directory)


COMMANDS.add(
    Command(summary="show what this machine has for training, and what is wrong with it", main=main), "doctor"
)
