"""Runs where apex is installed, whose Adam megatron-core then takes: stand-ins for its modules."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.test_golden_losses import flags_of_run, write_files

ROOT = Path(__file__).parents[2]
# As apex 0.1: the step is counted in the group, and the state of a parameter is its two moments.
OPTIMIZERS = """
import torch


class FusedAdam(torch.optim.Optimizer):
    def __init__(self, params, lr, weight_decay, betas, eps, adam_w_mode):
        assert adam_w_mode
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps,
                                  "bias_correction": True})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["exp_avg"].lerp_(parameter.grad, 1 - first)
                state["exp_avg_sq"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                mean = state["exp_avg"] / (1 - first ** group["step"])
                root = (state["exp_avg_sq"] / (1 - second ** group["step"])).sqrt() + group["eps"]
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * mean / root)


class FusedSGD(torch.optim.SGD):
    pass
"""
APPLIER = """
def multi_tensor_applier(op, noop_flag_buffer, tensor_lists, *arguments):
    return op(2048 * 32, noop_flag_buffer, tensor_lists, *arguments)
"""
KERNELS = """
import torch


def multi_tensor_l2norm(chunk_size, noop_flag, tensor_lists, per_tensor):
    squares = [tensor.double().square().sum() for tensors in tensor_lists for tensor in tensors]
    return torch.stack(squares).sum().sqrt().float()[None], None


def multi_tensor_scale(chunk_size, noop_flag, tensor_lists, scale):
    for source, target in zip(*tensor_lists, strict=True):
        target.copy_(source * scale)
"""


@pytest.fixture
def apex(tmp_path: Path) -> Path:
    """A directory with stand-ins for apex's modules that megatron-core looks for."""
    directory = tmp_path / "stand-ins"
    (directory / "apex" / "multi_tensor_apply").mkdir(parents=True)
    (directory / "apex" / "__init__.py").touch()
    (directory / "apex" / "optimizers.py").write_text(OPTIMIZERS)
    (directory / "apex" / "multi_tensor_apply" / "__init__.py").write_text(APPLIER)
    (directory / "amp_C.py").write_text(KERNELS)
    return directory


def train(work: Path, save: str, flags: str, *, apex: Path | None = None) -> tuple[list[float], str]:
    """(losses in --save, what was said) of the golden run with those flags."""
    path = os.pathsep.join(map(str, [ROOT, *([apex] if apex else [])]))
    words = [*flags_of_run("llama", work), "--save", str(work / save), *flags.split()]
    done = subprocess.run(
        [sys.executable, str(ROOT / "pretrain_rm.py"), "--stage", "rm", "--is-pairwise-dataset", *words],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 75), done.stderr
    rows = map(json.loads, (work / save / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row], done.stderr


@pytest.mark.full
@pytest.mark.parametrize("kind", ["", "--bf16"])
def test_a_run_with_apex_is_that_without_and_resumes_bit_for_bit(
    apex: Path, tmp_path: Path, kind: str
) -> None:
    write_files("llama", tmp_path)
    plain, said = train(tmp_path, "plain", kind)
    assert "torch's AdamW, fused" in said
    whole, said = train(tmp_path, "whole", kind, apex=apex)
    assert "optimizer: FusedAdam of apex, because it is installed" in said
    assert whole == pytest.approx(plain, abs=2e-3 if kind else 2e-5)  # the same formula in another order
    train(tmp_path, "resumed", f"{kind} --exit-interval 4", apex=apex)
    resumed, _ = train(tmp_path, "resumed", f"{kind} --auto-resume", apex=apex)
    assert resumed == whole


@pytest.mark.full
def test_a_run_goes_on_where_apex_was_installed_or_removed(apex: Path, tmp_path: Path) -> None:
    write_files("llama", tmp_path)
    whole, _ = train(tmp_path, "whole", "--bf16")
    for save, before, after in (("installed", None, apex), ("removed", apex, None)):
        train(tmp_path, save, "--bf16 --exit-interval 4", apex=before)
        resumed, _ = train(tmp_path, save, "--bf16 --auto-resume", apex=after)
        assert resumed == pytest.approx(whole, abs=2e-3), save
