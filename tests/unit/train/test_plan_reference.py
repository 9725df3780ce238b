"""The reference of a run that goes on: the one that its checkpoint names, or a refusal."""

import dataclasses
import json
from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.layout import read_checkpoint_info
from modellink_rm.checkpoint.model_plan import ModelPlan
from modellink_rm.checkpoint.source import ModelSource, open_source
from modellink_rm.commands.train import run_config
from modellink_rm.train.plan_reference import REFERENCE_NAME, plan_reference
from modellink_rm.train.reference import weights_fingerprint
from tests.lora_reference import write_adapter
from tests.tiny_models import write_tiny_llama

CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1" / "iter_0000002"
WORDS = "--stage dpo --load base --data-path data --train-iters 4"


def plan_of(checkpoint: Path) -> ModelPlan:
    """The model of a run that goes on from a checkpoint there; of its files only the reference is read."""
    info = dataclasses.replace(read_checkpoint_info(CHECKPOINT), path=checkpoint)
    return ModelPlan(source=ModelSource(checkpoint=info), spec=info.run.spec)


def test_a_run_that_goes_on_keeps_the_reference_that_it_began_with(tmp_path: Path) -> None:
    (tmp_path / REFERENCE_NAME).write_text('{"load": "first", "fingerprint": "abc"}')
    reference = plan_reference(run_config(WORDS.split()), plan_of(tmp_path), continues=True)
    assert (reference.load, reference.source, reference.fingerprint) == ("first", None, "abc")


def test_a_run_without_a_reference_takes_none_from_its_own_steps(tmp_path: Path) -> None:
    """One of simpo that goes on with sigmoid: the checkpoint's policy is not what it began with."""
    with pytest.raises(UserError, match="has no reference model so far, and --dpo-loss-type sigmoid needs"):
        plan_reference(run_config(WORDS.split()), plan_of(tmp_path), continues=True)


@pytest.mark.parametrize(
    "content", ["", "[]", "5", '{"load": 5, "fingerprint": "a"}', '{"load": "a"}', "[" * 9999]
)
def test_a_damaged_name_of_the_reference_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / REFERENCE_NAME).write_text(content)
    with pytest.raises(UserError, match=rf"{REFERENCE_NAME} is damaged") as caught:
        plan_reference(run_config(WORDS.split()), plan_of(tmp_path), continues=True)
    assert "\n" not in str(caught.value)


def test_adapters_of_another_scale_are_another_reference(tmp_path: Path) -> None:
    """lora_alpha is in adapter_config.json alone, and doubles what the adapters add."""
    model = write_tiny_llama(tmp_path / "model", num_hidden_layers=1)
    adapter = write_adapter(model, tmp_path / "adapter", targets=("q_proj",))
    before = weights_fingerprint(open_source(str(tmp_path / "model"), adapter=str(adapter)))
    config = adapter / "adapter_config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps({**fields, "lora_alpha": 2 * fields["lora_alpha"]}))
    after = weights_fingerprint(open_source(str(tmp_path / "model"), adapter=str(adapter)))
    assert before != after
