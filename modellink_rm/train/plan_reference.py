"""The reference model of a run, as far as it can be checked before any process group starts."""

import dataclasses
import json
from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.json_types import check_types
from modellink_rm.checkpoint.model_plan import ModelPlan, plan_model
from modellink_rm.checkpoint.source import ModelSource, open_source
from modellink_rm.config.run import RunConfig
from modellink_rm.model.spec import LANGUAGE_MODEL_HEAD, ModelSpec

REFERENCE_NAME = "reference.json"  # of a checkpoint


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference model of a run.

    Attributes:
        load: its directory, as given.
        source: opened; None for that of a run that is continued, which is needed only where a column is not
            there any more.
        fingerprint: of the weights that the run was started with; None in a new run.
    """

    load: str
    source: ModelSource | None
    fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True)
class WrittenReference:
    """What a checkpoint keeps of its run's reference, in REFERENCE_NAME; attributes as in `Reference`."""

    load: str
    fingerprint: str


def plan_reference(config: RunConfig, model: ModelPlan, *, continues: bool) -> Reference:
    """The reference that the flags name, or that of the run that is continued.

    Raises:
        UserError: there is no such model, or one of another shape than the policy's; or a run that had none
            is continued without saying which.
    """
    given = config.dpo.reference_load
    known = _read_reference(model.source) if continues else None
    if known is not None and given is None:
        return known
    if continues and given is None:
        raise UserError(
            f"the run in {model.source.name} has no reference model so far, and --dpo-loss-type "
            f"{config.dpo.dpo_loss_type} needs one: give --reference-load"
        )
    load = given if given is not None else str(config.checkpoint.load)
    source = model.source if given is None else open_reference(load, config, model.spec)
    return Reference(load=load, source=source, fingerprint=known.fingerprint if known is not None else None)


def open_reference(load: str, config: RunConfig, spec: ModelSpec) -> ModelSource:
    """The reference model, opened.

    Raises:
        UserError: it is not there, holds adapters, or has another shape than the policy.
    """
    try:
        plan = plan_model(
            open_source(load), config.model, config.parallel, loosely=False, head=LANGUAGE_MODEL_HEAD
        )
    except UserError as error:
        raise UserError(f"--reference-load: {error}") from None
    if plan.source.base is not None:
        raise UserError(f"--reference-load {load} holds adapters; export it with --merge, and give that")
    known = dataclasses.replace(plan.spec, padded_vocab_size=spec.padded_vocab_size, lora=spec.lora)
    if known != spec:
        raise UserError(
            f"--reference-load {load} is a model of another shape than that of --load; the reference is "
            "computed by the same model with other weights"
        )
    return plan.source


def _read_reference(source: ModelSource) -> Reference | None:
    """What a checkpoint says of its run's reference; None where it had none.

    Raises:
        UserError: the file is damaged.
    """
    assert source.checkpoint is not None
    path = source.checkpoint.path / REFERENCE_NAME
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_bytes())
        check_types(WrittenReference, values)
        written = WrittenReference(**values)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): copy the checkpoint again") from None
    return Reference(load=written.load, source=None, fingerprint=written.fingerprint)
