"""The forms of a written directory: where a program looks for the reward head, and what config.json says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.hf.heads import TOKEN_SCORE, VALUE_HEAD, VALUE_HEAD_FILE, HeadNames
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a program expects a reward model's directory.

    Attributes:
        name: of --form.
        head: names of the head's tensors; None for the weight's in the family's own class, without a bias.
        head_file: the file of the head, "" if it is among the weights.
        is_classifier: whether config.json names transformers' class with a `score`, of one label or of one
            for each attribute.
        is_stepwise: whether that is the class that scores every token, with two labels.
        is_language_model: whether it is a language model's, without a reward head.
        fields: further fields of config.json, for those that the base model's does not have.
    """

    name: str
    head: HeadNames | None = None
    head_file: str = ""
    is_classifier: bool = False
    is_stepwise: bool = False
    is_language_model: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)

    def classifier_fields(self, family: str, attributes: Sequence[str]) -> dict[str, Any]:
        """The fields of config.json that name the class of a model of that family, and its labels.

        Args:
            attributes: what each output of the head says; empty where its one output is the score.
        """
        if self.is_stepwise:
            labels = {"0": "wrong", "1": "right"}
            return {
                "architectures": [token_classifier_of(family)],
                "num_labels": len(labels),
                "id2label": labels,
                "label2id": {label: int(index) for index, label in labels.items()},
            }
        names = attributes or ("LABEL_0",)  # transformers' own name of the only one
        return {
            "architectures": [FAMILIES[family].classifier],
            "num_labels": len(names),
            "problem_type": "regression",
            "id2label": {str(number): name for number, name in enumerate(names)},
            "label2id": {name: number for number, name in enumerate(names)},
        }

    def head_names(self, family: str) -> HeadNames:
        """The names of the head's tensors in a model of that family."""
        return self.head or HeadNames(FAMILIES[family].tensors.head_name)


TRANSFORMERS = Form(name="transformers", is_classifier=True)
# AutoModelForCausalLM's names with the head beside them.
LLAMA_FACTORY = Form(name="llamafactory", head=VALUE_HEAD, head_file=VALUE_HEAD_FILE)
# OpenRLHF 0.11, models/model.py. Under the name `score`, which is its default, the directory is also one of
# transformers. Scores are (score - mean) / std where it is told to normalize them.
OPENRLHF = Form(
    name="openrlhf",
    is_classifier=True,
    fields={"value_head_prefix": "score", "mean": 0.0, "std": 1.0},
)
# TRL's PRMTrainer writes such a directory.
TOKEN_CLASSIFIER = Form(name="transformers", head=TOKEN_SCORE, is_classifier=True, is_stepwise=True)
# What a language model is in every program that reads transformers' directories: config.json stays as it was.
CAUSAL_LM = Form(name="causal-lm", is_language_model=True)
FORMS = {form.name: form for form in (TRANSFORMERS, LLAMA_FACTORY, OPENRLHF)}


def token_classifier_of(family: str) -> str:
    """transformers' class that scores every token of a model of that family; "" for none."""
    sequence, tokens = "ForSequenceClassification", "ForTokenClassification"
    name = FAMILIES[family].classifier
    return name.replace(sequence, tokens) if name.endswith(sequence) else ""


def choose_form(name: str | None, spec: ModelSpec) -> Form:
    """The form of that name; by default transformers', where it has a class for the model.

    Raises:
        UserError: the model cannot be written in that form.
    """
    family = spec.shape.family
    if spec.scores_steps:
        if name not in (None, TOKEN_CLASSIFIER.name):
            raise UserError(
                f"--form {name} has no place for a model that scores steps; --form "
                f"{TOKEN_CLASSIFIER.name} writes it for transformers' classes ForTokenClassification"
            )
        return TOKEN_CLASSIFIER
    if spec.is_language_model:
        if name is not None:
            raise UserError(f"--form {name} is for reward models, and this is a language model; leave it out")
        return CAUSAL_LM
    classifier = FAMILIES[family].classifier
    form = FORMS[name] if name is not None else TRANSFORMERS if classifier else LLAMA_FACTORY
    if form.is_classifier and not classifier:
        raise UserError(
            f"--form {form.name}: transformers has no class for a reward model of model_type {family}; "
            f"--form {LLAMA_FACTORY.name} writes the publisher's names with the head in {VALUE_HEAD_FILE}"
        )
    if spec.num_outputs > 1 and form.name != TRANSFORMERS.name:
        raise UserError(
            f"--form {form.name} has one score, and this model gives {spec.num_outputs} attributes; "
            f"--form {TRANSFORMERS.name} writes them as labels"
        )
    if spec.num_outputs > 1 and spec.head_bias:
        raise UserError(
            f"--form {form.name} has no place for the bias of this model's head: train without --head-bias"
        )
    if spec.head_bias and not form.head_names(family).bias:
        raise UserError(
            f"--form {form.name} has no place for the bias of this model's head; "
            f"--form {LLAMA_FACTORY.name} writes it, in {VALUE_HEAD_FILE}"
        )
    return form
