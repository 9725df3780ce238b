"""Counted parameters against those of transformers' models, and of their parts by hand."""

import dataclasses

import pytest

from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.estimate.parameters import layers_of_stage, parameters_of_stage
from modellink_rm.model.families.registry import shape_from_config
from tests.parity.family_cases import CASES
from tests.unit.estimate.shapes import LLAMA_8B, published_shape, spec_of


@pytest.mark.parametrize(
    "name", ["llama-2", "qwen2", "qwen3", "gemma-2", "olmo-2", "mixtral", "gpt-oss", "deepseek-v2"]
)
def test_parameters_are_those_of_transformers_model(name: str) -> None:
    case = CASES[name]
    shape = shape_from_config(case.tiny_config())
    expected = sum(parameter.numel() for parameter in case.model().parameters()) - shape.hidden_size  # head
    assert parameters_of_stage(spec_of(shape), ParallelConfig(), 0).total == expected


def test_published_sizes_are_those_that_the_names_say() -> None:
    # Without the language-model head: 8.03 B less 128256 x 4096.
    assert parameters_of_stage(spec_of(LLAMA_8B), ParallelConfig(), 0).total == 8030261248 - 128256 * 4096
    mixtral = parameters_of_stage(spec_of(published_shape("mixtral-8x7b")), ParallelConfig(), 0)
    assert mixtral.experts == 32 * 8 * 3 * 4096 * 14336


def test_tensor_parallelism_divides_all_but_norms() -> None:
    whole = parameters_of_stage(spec_of(LLAMA_8B), ParallelConfig(), 0)
    half = parameters_of_stage(spec_of(LLAMA_8B), ParallelConfig(tensor_model_parallel_size=2), 0)
    norms = (2 * 32 + 1) * 4096
    assert half.total == (whole.total - norms) // 2 + norms
    assert half.largest == 2 * 14336 * 4096 // 2


def test_stages_hold_every_parameter_once() -> None:
    parallel = ParallelConfig(pipeline_model_parallel_size=4, num_layers_per_virtual_pipeline_stage=2)
    stages = [parameters_of_stage(spec_of(LLAMA_8B), parallel, stage).total for stage in range(4)]
    assert sum(stages) == parameters_of_stage(spec_of(LLAMA_8B), ParallelConfig(), 0).total
    assert stages[0] - stages[1] == 128256 * 4096
    assert stages[3] - stages[1] == 4096
    assert layers_of_stage(32, parallel, 1) == [2, 3, 10, 11, 18, 19, 26, 27]


def test_experts_are_divided_over_their_own_processes() -> None:
    spec = spec_of(published_shape("mixtral-8x7b"))
    whole = parameters_of_stage(spec, ParallelConfig(), 0)
    parallel = ParallelConfig(expert_model_parallel_size=4, expert_tensor_parallel_size=2)
    part = parameters_of_stage(spec, parallel, 0)
    assert (part.ordinary, part.experts) == (whole.ordinary, whole.experts // 8)


def test_rows_of_padding_are_counted() -> None:
    spec = dataclasses.replace(spec_of(LLAMA_8B), padded_vocab_size=128256 + 256)
    more = parameters_of_stage(spec, ParallelConfig(), 0).total
    assert more - parameters_of_stage(spec_of(LLAMA_8B), ParallelConfig(), 0).total == 256 * 4096
