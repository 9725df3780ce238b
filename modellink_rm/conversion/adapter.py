"""A checkpoint of adapters written in PEFT's form, by all processes of a torchrun."""

from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info, warn_once
from modellink_rm.base.platform import detect_platform
from modellink_rm.checkpoint.contract import CONTRACT_NAME, InferenceContract
from modellink_rm.checkpoint.hf.write import finish
from modellink_rm.checkpoint.layout import CheckpointInfo
from modellink_rm.checkpoint.load import build_and_load_model, check_fits
from modellink_rm.checkpoint.model_plan import ModelPlan, plan_model
from modellink_rm.checkpoint.peft.write import write_unfinished_adapter
from modellink_rm.checkpoint.source import ModelSource, open_source
from modellink_rm.config.export import ExportConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.config.preprocess import DEFAULT_PLACEHOLDER
from modellink_rm.conversion.card import scale_of_scores
from modellink_rm.conversion.exported_tokenizer import tokenizer_beside_adapters
from modellink_rm.conversion.output import making
from modellink_rm.conversion.plan import DTYPES, check_output
from modellink_rm.conversion.publisher_code import check_token_classifier
from modellink_rm.model.config import Kernels
from modellink_rm.model.heads.steps import NUM_LABELS
from modellink_rm.model.spec import ModelSpec
from modellink_rm.parallel.failures import ending_together
from modellink_rm.parallel.groups import process_groups, world_size_from_environment
from modellink_rm.version import __version__

_CARD = """\
---
base_model: {base}
library_name: peft
pipeline_tag: {task}
tags:
- reward-model
- lora
---
# Adapters of a reward model

{lora}, trained with modellink-rm {version}; the reward head is with them. {meaning} {template}{held}

```python
import torch
from peft import PeftModel
from transformers import AutoTokenizer, {classifier}

tokenizer = AutoTokenizer.from_pretrained(DIRECTORY)
base = {classifier}.from_pretrained({base!r}, num_labels={outputs}, dtype="auto")
model = PeftModel.from_pretrained(base, DIRECTORY).eval()
{conversation}
with torch.no_grad():
    print({read})
```
"""
_OF_RESPONSES = {
    "task": "text-classification",
    "classifier": "AutoModelForSequenceClassification",
    "meaning": "A higher score is a better answer, read at the last token of the rendered response.",
    "conversation": """\
messages = [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]
ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)["input_ids"]""",
    "read": "model(input_ids=ids).logits[0, 0].item()",
}
_OF_ATTRIBUTES = _OF_RESPONSES | {
    "meaning": "They rate an answer's {names}, on the scale of their training data, at the last token of the "
    "rendered response. A score is a sum of these with weights of your choice.",
    "read": "dict(zip({names!r}, model(input_ids=ids).logits[0].tolist(), strict=True))",
}
_OF_STEPS = {
    "task": "token-classification",
    "classifier": "AutoModelForTokenClassification",
    "meaning": "They give the probability that a step of an answer is right, read at {end} after each step.",
    "conversation": """\
messages, steps = [{"role": "user", "content": "..."}], ["...", "..."]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
ids, ends = tokenizer.encode(text, add_special_tokens=False), []
for step in steps:
    ids += tokenizer.encode(step, add_special_tokens=False) + tokenizer.encode(END, add_special_tokens=False)
    ends.append(len(ids) - 1)""",
    "read": "model(torch.tensor([ids])).logits[0, ends].softmax(dim=-1)[:, 1].tolist()",
}
_HELD_IN_4_BITS = """

They were trained over matrices in 4 bits (NF4 in blocks of 64, without double quantization), and over others
the scores are not those of training. Open the base with
`quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")`, which leaves experts
as they are, or write the whole model by `export --merge`."""
_TEMPLATE = "Take the tokenizer of this directory: its chat template writes what training read ({name})."


def is_of_adapters(config: ExportConfig) -> bool:
    """Whether adapters are to be written, and no model.

    Raises:
        UserError: --load is missing, damaged, or neither a model nor a checkpoint.
    """
    return not config.merge and open_source(config.load, adapter=config.load_adapter).base is not None


def export_adapter(config: ExportConfig, parallel: ParallelConfig) -> None:
    """Write the directory.

    Raises:
        UserError: the flags are about a whole model, PEFT has no place for the head's bias, or the directory
            cannot be made.
    """
    parallel.check_world_size(world_size_from_environment())
    source = open_source(config.load, adapter=config.load_adapter)
    checkpoint, contract = source.checkpoint, source.contract
    assert checkpoint is not None
    assert contract is not None
    _check_flags(config, checkpoint)
    check_output(config)
    plan = plan_model(source, ModelConfig(), parallel, loosely=True)
    bf16 = checkpoint.run.setting("precision", "bf16") is True
    dtype = DTYPES[config.dtype or ("bfloat16" if bf16 else "float32")]
    tokenizer = tokenizer_beside_adapters(checkpoint, contract)
    if tokenizer.caveat is not None:
        warn_once(tokenizer.caveat)
    if plan.spec.lora is not None and plan.spec.lora.quantization:
        warn_once(
            "the adapters were trained over matrices in 4 bits: where other programs open them over weights "
            "that are not, scores are others; --merge writes the whole model"
        )
    card = adapter_card(plan.spec, contract, base=source.reference.path, caveat=tokenizer.caveat)
    files = {**tokenizer.files, "README.md": card.encode(), CONTRACT_NAME: contract.to_json()}
    directory = Path(config.output)
    platform = detect_platform(parallel.distributed_backend)
    with making(config.output), process_groups(parallel, platform, seed=0) as ranks, ending_together():
        chunks = build_and_load_model(
            _without_base(plan),
            model=ModelConfig(),
            parallel=parallel,
            precision=PrecisionConfig(bf16=bf16),
            kernels=Kernels(attention="sdpa", compiles_elementwise=False),
            seed=0,
            ranks=ranks,
            verifies=config.verify_checksums,
        )
        check_fits(chunks, dtype, trained_alone=True)
        unfinished = write_unfinished_adapter(
            directory, chunks, ranks, dtype=dtype, base=source.reference, files=files
        )
        finish(unfinished, directory, ranks)
    info(f"wrote {directory}")


def _check_flags(config: ExportConfig, checkpoint: CheckpointInfo) -> None:
    if config.form not in (None, "transformers") or config.merge_normalization:
        flag = "--merge-normalization" if config.merge_normalization else f"--form {config.form}"
        raise UserError(f"{flag} is about a whole model; give --merge too, or leave it out")
    if checkpoint.run.spec.is_language_model:
        raise UserError("the adapters of a language model are written with it: give --merge")
    if checkpoint.run.spec.scores_steps:
        check_token_classifier(checkpoint.run.spec.shape.family)
    elif checkpoint.run.spec.head_bias:
        raise UserError(
            "PEFT's form has no place for the bias of this model's head; --merge --form llamafactory has"
        )
    if not checkpoint.run.spec.post_layer_norm:
        raise UserError(
            "a model trained with --no-post-layer-norm cannot be written in PEFT's form: its scores are read "
            "before the final norm; score with the checkpoint itself"
        )


def _without_base(plan: ModelPlan) -> ModelPlan:
    """The plan, to load the adapters and the head alone."""
    return ModelPlan(source=ModelSource(checkpoint=plan.source.checkpoint), spec=plan.spec)


def adapter_card(spec: ModelSpec, contract: InferenceContract, *, base: str, caveat: str | None) -> str:
    """The model card (README.md) of adapters, with its front matter.

    Args:
        base: where the model lies that they update.
        caveat: what users must know of the chat template; None where it gives training's ids.
    """
    template = _TEMPLATE.format(name=f"--prompt-type {contract.prompt_type}")
    texts, outputs = _OF_RESPONSES, spec.num_outputs
    if spec.scores_steps:
        end = contract.placeholder_token or DEFAULT_PLACEHOLDER
        meaning = _OF_STEPS["meaning"].format(end=repr(end))
        conversation = _OF_STEPS["conversation"].replace("END", repr(end))
        texts, outputs = _OF_STEPS | {"meaning": meaning, "conversation": conversation}, NUM_LABELS
    elif contract.attributes:
        meaning = _OF_ATTRIBUTES["meaning"].format(names=", ".join(contract.attributes))
        read = _OF_ATTRIBUTES["read"].format(names=list(contract.attributes))
        texts = _OF_ATTRIBUTES | {"meaning": meaning, "read": read}
    else:
        texts = texts | {"meaning": f"{texts['meaning']} {scale_of_scores(contract)}"}
    return _CARD.format(
        base=base,
        lora=spec.lora,
        version=__version__,
        template=template if caveat is None else f"Chat template: {caveat}.",
        held=_HELD_IN_4_BITS if spec.lora is not None and spec.lora.quantization else "",
        outputs=outputs,
        **texts,
    )
