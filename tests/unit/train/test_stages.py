"""What each --stage trains, and flags that mean nothing to it."""

from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.model_plan import plan_model
from modellink_rm.checkpoint.source import open_source
from modellink_rm.commands.train import run_config
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model.spec import LANGUAGE_MODEL_HEAD
from modellink_rm.objective.policy.objective import PolicyObjective
from modellink_rm.objective.preference import PreferenceObjective
from modellink_rm.train.plan_reference import plan_reference
from modellink_rm.train.stages import STAGES
from tests.tiny_models import write_tiny_llama

WORDS = "--data-path data --train-iters 1 --is-pairwise-dataset"


def objective_of(stage: str, flags: str = "") -> object:
    config = run_config(["--stage", stage, *WORDS.split(), *flags.split()])
    return STAGES[stage].objective(config)


def test_stages_train_their_own_objectives() -> None:
    assert isinstance(objective_of("rm"), PreferenceObjective)
    assert isinstance(objective_of("dpo", "--dpo-beta 0.3 --dpo-loss-type ipo"), PolicyObjective)


@pytest.mark.parametrize(
    ("stage", "flags", "message"),
    [
        ("rm", "--dpo-beta 0.3", "--dpo-beta has no meaning for --stage rm; it is for --stage dpo"),
        ("rm", "--reference-load x", "--reference-load has no meaning for --stage rm"),
        ("dpo", "--loss-type focal", "--loss-type focal is a loss of reward models"),
        ("dpo", "--score-l2-weight 0.1", "--score-l2-weight has no meaning for --stage dpo"),
        ("dpo", "--label-smoothing 0.1", "--label-smoothing has no meaning for --stage dpo"),
    ],
)
def test_flags_of_another_stage_are_refused(stage: str, flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective_of(stage, flags)


def plan(load: str | None, model: ModelConfig | None = None) -> object:
    return plan_model(
        open_source(load), model or ModelConfig(), ParallelConfig(), loosely=False, head=LANGUAGE_MODEL_HEAD
    )


def test_language_model_needs_its_head(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "body", kind="body")
    write_tiny_llama(tmp_path / "score", kind="score")
    for kind in ("body", "score"):
        with pytest.raises(
            UserError, match=r"does not hold a language model of its config\.json: missing lm_head"
        ):
            plan(str(tmp_path / kind))
    with pytest.raises(UserError, match="--stage dpo needs --load"):
        plan(None)


def test_flags_of_a_reward_head_are_refused(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    for model, flag in (
        (ModelConfig(head_bias=True), "--head-bias"),
        (ModelConfig(post_layer_norm=False), "--no-post-layer-norm"),
    ):
        with pytest.raises(UserError, match=f"{flag} is about the head of a reward model"):
            plan(str(tmp_path), model)


def test_head_is_tied_as_config_json_says(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "tied", tie_word_embeddings=True)
    write_tiny_llama(tmp_path / "untied")
    for kind in ("tied", "untied"):
        found = plan_model(
            open_source(str(tmp_path / kind)),
            ModelConfig(),
            ParallelConfig(),
            loosely=False,
            head=LANGUAGE_MODEL_HEAD,
        )
        assert (found.spec.is_language_model, found.spec.ties_embedding) == (True, kind == "tied")


def test_reference_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "policy")
    write_tiny_llama(tmp_path / "other", num_hidden_layers=2)
    words = ["--stage", "dpo", *WORDS.split(), "--load", str(tmp_path / "policy")]
    config = run_config([*words, "--reference-load", str(tmp_path / "other")])
    source = open_source(str(tmp_path / "policy"))
    model = plan_model(source, config.model, config.parallel, loosely=False, head=LANGUAGE_MODEL_HEAD)
    with pytest.raises(UserError, match="is a model of another shape than that of --load"):
        plan_reference(config, model, continues=False)
    nowhere = run_config([*words, "--reference-load", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"--reference-load: .*there is no such directory"):
        plan_reference(nowhere, model, continues=False)
