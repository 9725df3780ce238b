"""megatron-core's "cuda" on a host without a GPU."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.distributed import Workers


def devices_in_a_thread() -> list[str]:
    """Where a tensor on "cuda" lies: in a thread within the platform's block, again, and after it."""
    import torch

    from modellink_rm.base.platform import detect_platform

    platform = detect_platform()

    def made() -> str:
        try:
            return torch.zeros(1, device="cuda").device.type
        except (AssertionError, RuntimeError):
            return "refused"

    def within() -> list[str]:
        with platform.of_this_thread():
            inside = made()
            with platform.of_this_thread():
                nested = made()
            after_nested = made()
        return [inside, nested, after_nested, made()]

    with ThreadPoolExecutor(1) as pool:
        return [*pool.submit(within).result(), made()]


def test_a_thread_computes_on_the_cpu_within_the_platforms_block(workers: Workers) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this host has a GPU")
    assert workers.run(devices_in_a_thread, 1) == [["cpu", "cpu", "cpu", "refused", "cpu"]]
