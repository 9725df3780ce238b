"""The GPUs of a cluster: how many, their memory and their speed."""

import re
from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.registry import unknown_name_message

GIB = 2**30
_GPUS_OF_A_NODE = 8


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        memory: bytes, as the driver counts them.
        tflops: of dense bfloat16 products, as its maker gives them; 0 where it is not known.
    """

    memory: int
    tflops: float


# Of the makers' data sheets.
GPUS = {
    "A100-40G": Gpu(memory=40 * GIB, tflops=312),
    "A100-80G": Gpu(memory=80 * GIB, tflops=312),
    "A800-80G": Gpu(memory=80 * GIB, tflops=312),
    "A6000": Gpu(memory=48 * GIB, tflops=155),
    "RTX4090": Gpu(memory=24 * GIB, tflops=165),
    "L20": Gpu(memory=45 * GIB, tflops=119),
    "L40S": Gpu(memory=45 * GIB, tflops=362),
    "H20": Gpu(memory=95 * GIB, tflops=148),
    "H100": Gpu(memory=80 * GIB, tflops=989),
    "H800": Gpu(memory=80 * GIB, tflops=989),
    "H200": Gpu(memory=140 * GIB, tflops=989),
    "B200": Gpu(memory=179 * GIB, tflops=2250),
}
UNNAMED = "A100-80G"  # whose speed is taken where the memory alone is given
CPU_NAME = "cpu"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal nodes of equal devices.

    Attributes:
        name: of the devices, for messages: "H100", "80G" or "cpu".
        gpu: what one of them has.
    """

    nodes: int
    per_node: int
    name: str
    gpu: Gpu

    @property
    def world_size(self) -> int:
        """Devices, and so processes."""
        return self.nodes * self.per_node

    @property
    def is_cpu(self) -> bool:
        """Whether the processes run on this machine's CPU."""
        return self.name == CPU_NAME

    def __str__(self) -> str:
        """As --gpus takes it."""
        nodes = f"{self.nodes}x" if self.nodes > 1 else ""
        return f"{nodes}{self.per_node}x{self.name}"


def parse_gpus(words: str, *, host_memory: int) -> Cluster:
    """The cluster that --gpus names: 8x80G, 8xH100, 4x8xH100 for four nodes; 2xcpu.

    More than eight in a multiple of eight, 64x80G, are nodes of eight.

    Args:
        host_memory: bytes that are free on this machine, which processes on its CPU share.

    Raises:
        UserError: not such words, or an unknown GPU.
    """
    found = re.fullmatch(r"(?:(\d{1,6})x)?(\d{1,6})x(.+)", words.strip(), re.IGNORECASE)
    if found is None or min(int(number) for number in found.groups()[:2] if number) < 1:
        raise UserError(
            f"--gpus takes their number and kind, as in 8x80G, 8xH100 or 4x8xH100 (four nodes), got {words!r}"
        )
    number = int(found[2])
    nodes, per_node = int(found[1] or 1), number
    if found[1] is None and number > _GPUS_OF_A_NODE and number % _GPUS_OF_A_NODE == 0:
        nodes, per_node = number // _GPUS_OF_A_NODE, _GPUS_OF_A_NODE
    name, gpu = _gpu_of(found[3], host_memory // (nodes * per_node))
    return Cluster(nodes=nodes, per_node=per_node, name=name, gpu=gpu)


def _gpu_of(word: str, host_memory: int) -> tuple[str, Gpu]:
    if word.lower() == CPU_NAME:
        return CPU_NAME, Gpu(memory=host_memory, tflops=0)
    size = re.fullmatch(r"(\d{1,4})(?:g|gb|gib)", word, re.IGNORECASE)
    if size is not None and int(size[1]):
        return f"{size[1]}G", Gpu(memory=int(size[1]) * GIB, tflops=GPUS[UNNAMED].tflops)
    names = {name.lower(): name for name in GPUS}
    if word.lower() not in names:
        choices = (*GPUS, "80G (any memory)", CPU_NAME)
        raise UserError(unknown_name_message("GPU of --gpus", word, choices))
    name = names[word.lower()]
    return name, GPUS[name]
