"""The model card (README.md) of a written directory: data, settings and measured metrics."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from modellink_rm.checkpoint.base_model import BASE_MODEL_FOLDER
from modellink_rm.checkpoint.contract import InferenceContract
from modellink_rm.checkpoint.hf.form import LLAMA_FACTORY, Form
from modellink_rm.checkpoint.hf.heads import VALUE_HEAD
from modellink_rm.checkpoint.layout import CheckpointInfo
from modellink_rm.config.objective import ObjectiveConfig
from modellink_rm.conversion.padding import PadToken
from modellink_rm.dataset.indexed import bin_path
from modellink_rm.dataset.manifest import array_prefix, key_of
from modellink_rm.report.curves import held_out_names
from modellink_rm.report.run_files import VALIDATION
from modellink_rm.version import __version__

CARD_NAME = "README.md"
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# Fields of the base model's card that hold for what is trained from it.
_INHERITED = ("license", "license_name", "license_link", "language")
_SETTINGS = {
    "learning rate": ("optim", "lr"),
    "schedule": ("optim", "lr_decay_style"),
    "weight decay": ("optim", "weight_decay"),
    "loss": ("training", "loss_type"),
    "longest sequence, tokens": ("data", "seq_length"),
    "seed": ("training", "seed"),
}
_METRICS = (
    *("loss", "accuracy", "margin", "chosen_score", "rejected_score", "chosen_reward", "rejected_reward"),
    "examples",
)
_LANGUAGE_MODEL_SETTINGS = {
    **_SETTINGS,
    "loss": ("dpo", "dpo_loss_type"),
    "beta": ("dpo", "dpo_beta"),
    "weight of the chosen answers' likelihood": ("dpo", "pref_ftx"),
}
_LOADING = """\
```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(DIRECTORY)
model = AutoModelForSequenceClassification.from_pretrained(DIRECTORY, dtype="auto").eval()
messages = [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]
ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
with torch.no_grad():
"""
_ATTRIBUTES_SNIPPET = (
    _LOADING
    + """\
    ratings = model(**ids).logits[0].tolist()
print(dict(zip(model.config.id2label.values(), ratings, strict=True)))
```
"""
)
_SNIPPET = (
    _LOADING
    + """\
    print(model(**ids).logits[0, 0].item())
```
"""
)


_SNIPPET_OF_STEPS = """\
```python
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(DIRECTORY)
model = AutoModelForTokenClassification.from_pretrained(DIRECTORY, dtype="auto").eval()
messages, steps = [{"role": "user", "content": "..."}], ["...", "..."]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
ids, ends = tokenizer.encode(text, add_special_tokens=False), []
for step in steps:
    ids += tokenizer.encode(step, add_special_tokens=False) + tokenizer.encode(END, add_special_tokens=False)
    ends.append(len(ids) - 1)
with torch.no_grad():
    print(model(torch.tensor([ids])).logits[0, ends].softmax(dim=-1)[:, 1].tolist())
```
"""


def model_card(
    checkpoint: CheckpointInfo,
    contract: InferenceContract,
    *,
    form: Form,
    dtype: torch.dtype,
    pad: PadToken,
    caveat: str | None,
    appended: str = "",
) -> str:
    """The card's text, with its front matter.

    Args:
        appended: the token that the publisher's class appends to what the chat template writes; "" for none.
        caveat: what users must know of the chat template; None where it gives training's ids.
    """
    name, front = _base_model(checkpoint)
    is_reward_model = not form.is_language_model
    task, tag = "text-classification", "reward-model"
    if form.is_stepwise:
        task = "token-classification"
    elif form.is_language_model:
        task, tag = "text-generation", "dpo"
    front |= {"library_name": "transformers", "pipeline_tag": task, "tags": [tag]}
    made = f"trained from {name} with modellink-rm {__version__}"
    title = "# Reward model"
    if form.is_stepwise:
        meaning = f"A process reward model, {made}: the probability that each step of an answer is right."
    elif is_reward_model:
        meaning = f"A reward model, {made}: {_meaning(contract)}"
    else:
        title = "# Language model"
        meaning = f"{name}, trained on preferences with modellink-rm {__version__}."
    lines = ["---", *_yaml(front), "---", title, "", meaning, ""]
    if "license" not in front:
        lines += [f"The licence is that of {name} and of the data.", ""]
    if is_reward_model:
        lines += ["## Scores", "", *_scores(contract, form, pad, caveat)]
        if appended:
            lines.append(f"- The class's `get_score` appends `{appended}` to what the chat template writes.")
        lines.append("")
    elif caveat is not None:
        lines += [f"Chat template: {caveat}.", ""]
    lines += ["## Training", "", *_table(_training(checkpoint, contract, form, dtype)), ""]
    metrics = _last_metrics(checkpoint)
    if metrics:
        after = f"After step {checkpoint.run.iteration:,}."
        lines += ["## Metrics", "", after, "", *_table(metrics), ""]
    return "\n".join(lines)


def _meaning(contract: InferenceContract) -> str:
    """What a score says."""
    if not contract.attributes:
        return f"a higher score is a better answer. {scale_of_scores(contract)}"
    return (
        f"it rates an answer's {', '.join(contract.attributes)}, on the scale of its training data. A score "
        "is a sum of them with weights of your choice."
    )


def scale_of_scores(contract: InferenceContract) -> str:
    """What is known of the scale of the scores."""
    found = contract.normalization
    if found is None:
        return "Scores have no bounds."
    form = f"(score - {found.mean:.6g})" + (f" / {found.std:.6g}" if found.std != 1 else "")
    return (
        f"Scores have no bounds; {form} is normalized by {found.num_responses:,} responses of {found.data}."
    )


def _base_model(checkpoint: CheckpointInfo) -> tuple[str, dict[str, Any]]:
    """The base model's name, and what its own card says that holds for this one."""
    folder = checkpoint.path / BASE_MODEL_FOLDER
    config = json.loads((folder / "config.json").read_bytes())
    loaded = str(checkpoint.run.setting("checkpoint", "load") or "").rstrip("/")
    hub = str(config.get("_name_or_path") or "")
    front: dict[str, Any] = {"base_model": hub} if _HUB_NAME.fullmatch(hub) else {}
    card = folder / CARD_NAME
    if card.is_file():
        front |= _inherited(card.read_text(encoding="utf-8", errors="replace"))
    return front.get("base_model") or Path(loaded).name or f"a {config['model_type']} model", front


def _inherited(card: str) -> dict[str, Any]:
    """Simple fields of a card's front matter."""
    parts = card.split("---", 2)
    lines = parts[1].splitlines() if card.startswith("---") and len(parts) == 3 else []
    found = {}
    for line in lines:
        key, _, value = line.partition(":")
        if key in _INHERITED and value.strip():
            found[key] = value.strip().strip("\"'")
    return found


def _scores(contract: InferenceContract, form: Form, pad: PadToken, caveat: str | None) -> Iterator[str]:
    if form.is_stepwise:
        yield from _SNIPPET_OF_STEPS.replace("END", repr(contract.placeholder_token)).splitlines()
    elif form.is_classifier:
        yield from (_ATTRIBUTES_SNIPPET if contract.attributes else _SNIPPET).splitlines()
    else:
        yield f"The head is in `{form.head_file}`: {VALUE_HEAD.weight} and {VALUE_HEAD.bias}."
    yield ""
    if form.is_stepwise:
        yield f"- A step is read at the last token of {contract.placeholder_token!r}, which follows it."
    else:
        rule = contract.eos_rule or "template unknown"
        yield f"- The score is read at the {contract.scored_token} ({rule})."
    if caveat is None:
        yield (
            f"- The chat template writes what training read (--prompt-type {contract.prompt_type}), its BOS "
            "too: tokenize rendered text without adding special tokens."
        )
    else:
        yield f"- Chat template: {caveat}."
    yield f"- Inputs longer than {contract.seq_length} tokens were truncated ({contract.truncation})."
    yield f"- `{pad.token}` ({pad.index}) only pads batches: it is never the scored token."
    if form.name == LLAMA_FACTORY.name:
        yield "- There is no language-model head; scores do not depend on it."


def _training(
    checkpoint: CheckpointInfo, contract: InferenceContract, form: Form, dtype: torch.dtype
) -> dict[str, object]:
    rows: dict[str, object] = {}
    for number, data in enumerate(checkpoint.run.data or (), start=1):
        name = Path(str(data.get("prefix", "?"))).name
        rows[f"data {number}" if len(checkpoint.run.data or ()) > 1 else "data"] = (
            f"{name}, {data.get('num_rows', '?')} rows"
        )
    rows |= {"template": contract.prompt_type, "handler": contract.handler}
    examples = "answers" if form.is_stepwise or contract.attributes else _examples_of(checkpoint)
    if checkpoint.run.iteration:
        rows |= {"steps": checkpoint.run.iteration, f"{examples} seen": checkpoint.run.consumed_samples}
    settings = _LANGUAGE_MODEL_SETTINGS if checkpoint.run.spec.is_language_model else _SETTINGS
    rows[f"{examples} per step"] = checkpoint.run.setting("training", "global_batch_size")
    rows |= {name: checkpoint.run.setting(*place) for name, place in settings.items()}
    if form.is_stepwise:
        rows["loss"] = "cross-entropy of every step's label"
    for field in dataclasses.fields(ObjectiveConfig):
        value = checkpoint.run.setting("objective", field.name)
        value = tuple(value) if isinstance(value, list) else value
        if value not in (None, field.default):
            rows[field.name.replace("_", " ")] = value
    rows["trained in"] = "bfloat16" if checkpoint.run.setting("precision", "bf16") else "float32"
    rows["written in"] = str(dtype).removeprefix("torch.")
    return {name: value for name, value in rows.items() if value is not None}


def _examples_of(checkpoint: CheckpointInfo) -> str:
    """What the steps of a model of preferences count: pairs, or the prompts of rankings."""
    prefix = Path("data")
    ranks = key_of(bin_path(array_prefix(prefix, "ranks")), prefix)
    return "prompts" if any(ranks in data.get("files", {}) for data in checkpoint.run.data or ()) else "pairs"


def _last_metrics(checkpoint: CheckpointInfo) -> dict[str, object]:
    """Of the last log line and the last evaluation up to the checkpoint, with their step if it is earlier.

    Not of the evaluation before the first step, which is of other weights altogether.
    """
    path = checkpoint.path.parent / "metrics.jsonl"
    last: dict[str, tuple[int, Any]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    except (OSError, ValueError):  # the card goes without
        return {}
    for row in rows:
        iteration = row.get("iteration") if isinstance(row, Mapping) else None
        if isinstance(iteration, int) and 0 < iteration <= checkpoint.run.iteration:
            names = held_out_names([row])
            kinds = {f"{name}/": "validation" if name == VALIDATION else name for name in names}
            for prefix, kind in {"": "training", **kinds}.items():
                last |= {
                    f"{kind} {name.replace('_', ' ')}": (iteration, row[prefix + name])
                    for name in _METRICS
                    if isinstance(row.get(prefix + name), int | float)
                }
    found: dict[str, object] = {}
    for name, (iteration, value) in last.items():
        when = "" if iteration == checkpoint.run.iteration else f", after step {iteration:,}"
        found[f"{name}{when}"] = f"{value:.4f}" if isinstance(value, float) else value
    return found


def _table(rows: Mapping[str, object]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _yaml(front: Mapping[str, Any]) -> Iterator[str]:
    for key, value in front.items():
        if isinstance(value, list):
            yield f"{key}:"
            yield from (f"- {item}" for item in value)
        else:
            yield f"{key}: {value}"
