"""The objective of process reward models: each labelled step of a response is right or wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from modellink_rm.base.errors import UserError
from modellink_rm.batching.targets import Targets
from modellink_rm.dataset.dataset import Dataset
from modellink_rm.objective.objective import Labels, ObjectiveResult

_LABELS = Labels(
    examples="responses",
    names={"accuracy": "acc", "right_accuracy": "acc of right", "wrong_accuracy": "acc of wrong"},
    evaluation=("acc: {accuracy:.4f}", "probability: {probability:.4f}", "steps: {steps}"),
    short={"accuracy": ".3f"},
)
_EVEN = 0.5  # a step with this probability or more is right


@dataclass(frozen=True, kw_only=True)
class ProcessObjective:
    """The binary cross entropy of the labelled steps, each of which weighs the same.

    With s the score of a step and y its label, 1 (right) or 0 (wrong) or a probability, it is
    -y log sigmoid(s) - (1 - y) log sigmoid(-s): Lightman et al. 2023 (arXiv 2305.20050, section 2.6) and
    Wang et al. 2023 (Math-Shepherd, arXiv 2312.08935, eq. 2), who add up the steps of all solutions; TRL's
    PRMTrainer, whose cross entropy is the mean over the labelled tokens of a batch.

    Its metrics are over labelled steps: the mean loss, the accuracy (a score above 0 says that a step is
    right), that of the right and of the wrong steps alone where there are any, the mean probability that the
    model gives to a step, and the number of steps.
    """

    labels: Labels = _LABELS

    sum_names = ("steps", "step_losses", "probabilities", "right_steps", "right_hits", "wrong_hits")
    details = ("right_accuracy", "wrong_accuracy", "steps")

    def __call__(self, scores: Tensor, targets: Targets) -> ObjectiveResult:
        """The loss of each of n examples, for the scores [r] of their steps.

        It is the sum over the labelled steps, each times `targets.step_weight`, so that the mean over the
        examples of a global batch is the mean over its labelled steps.
        """
        is_labelled = ~targets.step_labels.isnan()
        labels = targets.step_labels.nan_to_num(nan=0.0)
        losses = -labels * logsigmoid(scores) - (1 - labels) * logsigmoid(-scores)
        losses = losses.masked_fill(~is_labelled, 0.0)
        is_right = is_labelled & (labels >= _EVEN)
        is_wrong = is_labelled & (labels < _EVEN)
        says_right = scores.detach() > 0
        sums = {
            "steps": is_labelled,
            "step_losses": losses.detach(),
            "probabilities": scores.detach().sigmoid().masked_fill(~is_labelled, 0.0),
            "right_steps": is_right,
            "right_hits": is_right & says_right,
            "wrong_hits": is_wrong & ~says_right,
        }
        hits = sums["right_hits"] | sums["wrong_hits"]
        return ObjectiveResult(
            losses=targets.step_weight * targets.sum_by_example(losses, targets.examples),
            sums={name: values.double().sum() for name, values in sums.items()},
            credits=targets.sum_by_example(hits.double(), targets.examples),
            counts=targets.sum_by_example(is_labelled.double(), targets.examples),
        )

    def reported(self, scores: Tensor, targets: Targets) -> Tensor:
        """The scores themselves."""
        return scores

    def metrics(self, sums: Mapping[str, float], num_examples: int) -> dict[str, float]:
        """The metrics over all labelled steps; see the class."""
        num_steps, num_right = round(sums["steps"]), round(sums["right_steps"])
        found = {
            "loss": sums["step_losses"] / max(num_steps, 1),
            "accuracy": (sums["right_hits"] + sums["wrong_hits"]) / max(num_steps, 1),
            "probability": sums["probabilities"] / max(num_steps, 1),
        }
        if num_right:
            found["right_accuracy"] = sums["right_hits"] / num_right
        if num_steps > num_right:
            found["wrong_accuracy"] = sums["wrong_hits"] / (num_steps - num_right)
        return {**found, "steps": num_steps}

    def for_data(self, datasets: Sequence[Dataset], *, flag: str = "--data-path") -> "ProcessObjective":
        """This objective: it is the same for all data.

        Raises:
            UserError: a data set has no steps; the message names it.
        """
        for dataset in datasets:
            if not dataset.rows.holds_steps:
                raise UserError(
                    f"--stage prm: {flag} {dataset.prefix} holds no labelled steps; preprocess records of "
                    "steps, by a handler such as StepwiseHandler, or train on preferences by --stage rm"
                )
        return self
