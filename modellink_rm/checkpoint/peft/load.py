"""Loading adapters in PEFT's form into this process's model chunks."""

from collections.abc import Sequence
from typing import Any

import torch

from modellink_rm.checkpoint.files import CHECKSUMS_FILE, read_files
from modellink_rm.checkpoint.peft.directory import PeftDirectory
from modellink_rm.checkpoint.peft.experts import adapted_experts
from modellink_rm.checkpoint.peft.names import adapted, own_tensors
from modellink_rm.checkpoint.verify import check_contents_together
from modellink_rm.experts.adapter import ExpertsAdapter
from modellink_rm.experts.modules import ExpertWeights
from modellink_rm.model.adapting import module_of
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.parallel.groups import Ranks


@torch.no_grad()
def load_peft_adapter(
    chunks: Sequence[RewardModel], adapter: PeftDirectory, ranks: Ranks, *, verifies: bool = True
) -> None:
    """Fill the adapters and the head; a head that is not there stays as it is. A collective.

    Args:
        verifies: compare the tensors with the checksums beside them, where this package wrote some.

    Raises:
        CheckpointNotReadError: on every process: they are not what was written.
    """
    checksums = adapter.directory / CHECKSUMS_FILE
    if verifies and checksums.is_file():
        check_contents_together(adapter.directory, read_files(checksums), ranks)
    spec, stored = chunks[0].spec, adapter.tensors()
    linears, experts = adapted(spec), adapted_experts(spec)
    for chunk in chunks:
        for one in experts:
            layer = chunk.layer(one.layer)
            if layer is not None:
                weights = module_of(one.entry, layer)
                assert isinstance(weights, ExpertWeights)
                assert isinstance(weights.adapter, ExpertsAdapter)
                one.load(weights.adapter, stored)
        for linear in linears:
            layer = chunk.layer(linear.layer)
            if layer is None:
                continue
            module: Any = layer.get_submodule(linear.entry.engine)
            a, b = own_tensors(linear, stored, ranks.tp_rank, ranks.tp_size)
            module.adapter.a.copy_(a)
            module.adapter.b.copy_(b)
    if chunks[-1].post_process:
        for name, tensor in zip(("weight", "bias"), adapter.head(spec), strict=False):
            chunks[-1].rm_head.get_parameter(name).copy_(tensor)
    adapter.release()
