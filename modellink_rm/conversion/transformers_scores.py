"""Scores of a directory by transformers alone, in a process that no model of this package is in.

    python -m modellink_rm.conversion.transformers_scores DIR < request.json

reads {"samples": [{"messages": [...], "input_ids": [...], "step_ends": null}], "rendered": [indices],
"is_language_model": false}, with indices of tokens for "step_ends" of a sample in steps, and writes the
fields of `Scores`. The scores of a language model are the mean log-probabilities of the samples' tokens, all
but the first.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    logging,
)

from modellink_rm.base.launcher import end_with_launcher
from modellink_rm.conversion.publisher_glm import load_publisher_glm

# (token ids [b, s], attention mask [b, s]) -> scores [b, labels], or [b, s] of all tokens for those of steps
ScoresOf = Callable[[Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """What transformers makes of a directory.

    Attributes:
        together: of all samples in one padded batch, of each those of all labels; of a sample in steps the
            score of each step, one after the other.
        alone: of each sample by itself.
        different: indices of the samples that the chat template gives other ids.
        problems: names of tensors that the model lacks, or does not know.
    """

    together: list[list[float]]
    alone: list[list[float]]
    different: list[int]
    problems: list[str]


@torch.no_grad()
def scores_with_transformers(
    directory: Path, samples: list[dict[str, Any]], *, rendered: list[int], is_language_model: bool = False
) -> Scores:
    """Scores in float32.

    Args:
        rendered: indices of the samples that the chat template must give their ids.
    """
    logging.set_verbosity_error()
    scores_of, pad, problems = (_opened_language_model if is_language_model else _opened)(directory)
    ids = [sample["input_ids"] for sample in samples]
    longest = max(map(len, ids))
    batch = torch.tensor([one + [pad] * (longest - len(one)) for one in ids])
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in ids])
    together = scores_of(batch, mask)
    alone = [scores_of(torch.tensor([one]), torch.ones(1, len(one), dtype=torch.long))[0] for one in ids]
    ends = [sample["step_ends"] for sample in samples]
    different = []
    if rendered:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        for index in rendered:
            text = tokenizer.apply_chat_template(samples[index]["messages"], tokenize=False)
            if tokenizer(text, add_special_tokens=False)["input_ids"] != samples[index]["input_ids"]:
                different.append(index)
    return Scores(
        together=_at(ends, together),
        alone=_at(ends, alone),
        different=different,
        problems=problems,
    )


def _at(ends: Sequence[list[int] | None], scores: Iterable[Tensor]) -> list[list[float]]:
    """The scores of all samples, each given as [labels], or as [s] of all tokens if it is in steps."""
    found: list[list[float]] = []
    for at, of_sample in zip(ends, scores, strict=True):
        found += [of_sample.tolist()] if at is None else of_sample[at][:, None].tolist()
    return found


def _opened_language_model(directory: Path) -> tuple[ScoresOf, int, list[str]]:
    """The mean log-probabilities of a language model, as `_opened` gives a reward model's scores."""
    model, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    model.eval()

    def scores_of(ids: Tensor, mask: Tensor) -> Tensor:
        log_probs = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(dim=-1)
        found = log_probs.gather(2, ids[:, 1:, None])[..., 0] * mask[:, 1:]
        means: Tensor = found.sum(dim=1) / mask[:, 1:].sum(dim=1)
        return means[:, None]

    return scores_of, 0, sorted({*report["missing_keys"], *report["unexpected_keys"]})


def _opened(directory: Path) -> tuple[ScoresOf, int, list[str]]:
    """The model's scores, its padding token, and what is missing or too much in its weights."""
    options = {"dtype": torch.float32, "local_files_only": True, "output_loading_info": True}
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if config["architectures"][0].endswith("ForTokenClassification"):
        tagger, report = AutoModelForTokenClassification.from_pretrained(directory, **options)
        tagger.eval()

        def steps_of(ids: Tensor, mask: Tensor) -> Tensor:
            logits: Tensor = tagger(input_ids=ids, attention_mask=mask).logits
            return logits[..., 1] - logits[..., 0]

        problems = sorted({*report["missing_keys"], *report["unexpected_keys"]})
        return steps_of, tagger.config.pad_token_id, problems
    head_file = directory / "value_head.safetensors"
    if not head_file.exists():
        model, report = AutoModelForSequenceClassification.from_pretrained(directory, **options)
        model.eval()

        def scores_of(ids: Tensor, mask: Tensor) -> Tensor:
            scores: Tensor = model(input_ids=ids, attention_mask=mask).logits
            return scores

        problems = sorted({*report["missing_keys"], *report["unexpected_keys"]})
        return scores_of, model.config.pad_token_id, problems
    problems = []
    if config["model_type"] == "chatglm":
        body = load_publisher_glm(directory)
    else:
        body, report = AutoModel.from_pretrained(directory, **options)
        problems = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    body.eval()
    head = {name: tensor.float() for name, tensor in load_file(head_file).items()}

    def value_of(ids: Tensor, mask: Tensor) -> Tensor:
        hidden_states = body(input_ids=ids, attention_mask=mask).last_hidden_state
        last = hidden_states[torch.arange(len(ids)), mask.sum(dim=1) - 1]
        values: Tensor = last @ head["v_head.summary.weight"].T + head["v_head.summary.bias"]
        return values

    return value_of, config.get("pad_token_id") or 0, problems


if __name__ == "__main__":
    end_with_launcher()
    request = json.load(sys.stdin)
    found = scores_with_transformers(
        Path(sys.argv[1]),
        request["samples"],
        rendered=request["rendered"],
        is_language_model=request["is_language_model"],
    )
    print(json.dumps(dataclasses.asdict(found)))
