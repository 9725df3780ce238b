"""What --gpus takes."""

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.estimate.gpus import GIB, parse_gpus


@pytest.mark.parametrize(
    ("words", "nodes", "per_node", "name", "gib"),
    [
        ("8x80G", 1, 8, "80G", 80),
        ("1x24GB", 1, 1, "24G", 24),
        ("8xH100", 1, 8, "H100", 80),
        ("4x8xh200", 4, 8, "H200", 140),
        ("64x80G", 8, 8, "80G", 80),
        ("12x80G", 1, 12, "80G", 80),
        ("2x4xA100-40G", 2, 4, "A100-40G", 40),
    ],
)
def test_number_and_kind_are_read(words: str, nodes: int, per_node: int, name: str, gib: int) -> None:
    cluster = parse_gpus(words, host_memory=0)
    assert (cluster.nodes, cluster.per_node, cluster.name) == (nodes, per_node, name)
    assert cluster.gpu.memory == gib * GIB
    assert parse_gpus(str(cluster), host_memory=0) == cluster


def test_processes_on_a_cpu_share_the_memory_of_the_host() -> None:
    cluster = parse_gpus("2xcpu", host_memory=10 * GIB)
    assert cluster.is_cpu
    assert cluster.gpu.memory == 5 * GIB


@pytest.mark.parametrize("words", ["", "8", "H100", "0x80G", "8x", "0x8x80G", "8x0G", "-1x80G"])
def test_other_words_are_refused_with_the_form(words: str) -> None:
    with pytest.raises(UserError, match="--gpus"):
        parse_gpus(words, host_memory=0)


def test_an_unknown_gpu_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean H100"):
        parse_gpus("8xH1000", host_memory=0)
