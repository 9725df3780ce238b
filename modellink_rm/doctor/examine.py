"""The examination of this machine, as the trainer would find it."""

from pathlib import Path

from modellink_rm.base import engine_import  # noqa: F401 (before what needs the engine)
from modellink_rm.base.errors import UserError
from modellink_rm.base.platform import detect_platform
from modellink_rm.doctor.devices import device_problems, examine_devices
from modellink_rm.doctor.findings import Problem
from modellink_rm.doctor.host import examine_host, host_problems
from modellink_rm.doctor.kernels import examine_kernels, kernel_problems
from modellink_rm.doctor.network import network_problems
from modellink_rm.doctor.packages import wrong_versions
from modellink_rm.doctor.report import DoctorReport

_NO_DEVICE = "python -m pip install torch for the driver's CUDA, or a newer driver"


def examine(directory: Path) -> DoctorReport:
    """The report on this machine; takes half a minute at most where the compiler is slow.

    Args:
        directory: where checkpoints are to be written.
    """
    host = examine_host(directory)
    problems = [*wrong_versions(), *host_problems(host)]
    try:
        platform = detect_platform()
    except UserError as error:
        problems.insert(0, Problem(what=str(error), remedy=_NO_DEVICE))
        return DoctorReport(host=host, devices=None, kernels=None, problems=tuple(problems))
    devices = examine_devices(platform)
    kernels = examine_kernels(platform)
    problems += [
        *network_problems(platform.backend),
        *device_problems(devices),
        *kernel_problems(kernels, platform),
    ]
    return DoctorReport(host=host, devices=devices, kernels=kernels, problems=tuple(problems))
