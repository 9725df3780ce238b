"""The template of a scorer, where --load does not name one."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.contract import CONTRACT_NAME
from modellink_rm.config.scorer import scorer_options
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.inference.plan import ScoringPlan, plan_scoring
from modellink_rm.inference.record_tokenizer import ScoringInput
from modellink_rm.metrics.normalization import Normalization
from modellink_rm.records import Record
from modellink_rm.templates.choice import find_template
from modellink_rm.tokenizers.load import load_tokenizer
from tests.tiny_contract import tiny_contract
from tests.tiny_data import write_tokenizer
from tests.tiny_models import write_tiny_llama
from tests.unit.templates.families import TEMPLATES


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, fast_directory: Path) -> Path:
    path: Path = tmp_path_factory.mktemp("model")
    write_tiny_llama(path, kind="score", vocab_size=1024)
    shutil.copytree(fast_directory, path, dirs_exist_ok=True)
    return path


def plan(directory: Path, **flags: str) -> ScoringPlan:
    return plan_scoring(scorer_options(str(directory), flags))


def test_a_hugging_face_directory_is_scored_with_its_own_chat_template(directory: Path) -> None:
    with pytest.raises(UserError, match=r"--prompt-type is required: the tokenizer .* has no chat template"):
        plan(directory)
    (directory / "chat_template.jinja").write_text(TEMPLATES["phi4"])
    inputs = plan(directory).inputs
    assert (inputs.template.name, inputs.template.chat_template) == ("hf", TEMPLATES["phi4"])
    assert plan(directory, prompt_type="empty").inputs.template.name == "empty"


def test_a_directory_that_export_wrote_is_scored_as_its_checkpoint_was(
    directory: Path, tmp_path: Path
) -> None:
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    tokenizer = load_tokenizer(TokenizerConfig(tokenizer_name_or_path=str(tmp_path)))
    contract = tiny_contract(find_template("llama2", tokenizer), tokenizer)
    normalization = Normalization(mean=0.5, std=2.0, num_responses=8, data="held-out")
    exported = dataclasses.replace(contract, normalization=normalization)
    (tmp_path / CONTRACT_NAME).write_bytes(exported.to_json())
    found = plan(tmp_path)
    assert found.inputs.template.fingerprint == contract.template_fingerprint
    assert (found.inputs.seq_length, found.inputs.truncation) == (48, "keep-ends")
    assert found.normalization == normalization
    given = plan_scoring(
        scorer_options(str(tmp_path), {"raw": True, "prompt_type": "empty", "seq_length": 9})
    )
    assert (given.normalization, given.inputs.template.name, given.inputs.seq_length) == (None, "empty", 9)


@pytest.mark.parametrize(("seq_length", "shares"), [(64, True), (65, False)])
def test_prompts_are_shared_where_their_angles_are(seq_length: int, shares: bool, tmp_path: Path) -> None:
    scaling = {"rope_type": "dynamic", "factor": 2.0}
    write_tiny_llama(tmp_path, kind="score", max_position_embeddings=64, rope_scaling=scaling)
    write_tokenizer(tmp_path)
    flags = {"prompt_type": "llama2", "max_position_embeddings": 128, "seq_length": seq_length}
    assert plan_scoring(scorer_options(str(tmp_path), flags)).share_prefixes == shares


@pytest.mark.parametrize("flags", [{}, {"prompt_type": "hf"}])
def test_a_reward_model_of_another_trainer_is_scored_after_all_that_its_template_writes(
    directory: Path, flags: dict[str, str]
) -> None:
    (directory / "chat_template.jinja").write_text(TEMPLATES["internlm2"])
    inputs = plan(directory, **flags).inputs
    item = inputs(Record("x", {"prompt": "q", "response": "a"}))
    assert isinstance(item, ScoringInput)
    ids = item.example.responses[0].input_ids.tolist()
    own = AutoTokenizer.from_pretrained(str(directory))
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert ids == own.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert own.decode(ids).endswith("<|im_end|>\n")


def test_a_score_that_transformers_reads_before_the_padding_token_is_warned_of(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr("modellink_rm.inference.record_tokenizer.warn_once", warnings.append)
    (directory / "chat_template.jinja").write_text(TEMPLATES["phi4"])
    config = json.loads((directory / "config.json").read_text())

    def last_id(padding_id: int) -> int:
        (directory / "config.json").write_text(json.dumps({**config, "pad_token_id": padding_id}))
        item = plan(directory).inputs(Record("x", {"prompt": "q", "response": "a"}))
        assert isinstance(item, ScoringInput)
        return int(item.example.responses[0].input_ids[-1])

    last = last_id(0)
    assert (last != 0, warnings) == (True, [])
    assert last_id(last) == last
    assert [f"last token, {last}, which is config.json's pad_token_id" in one for one in warnings] == [True]


@pytest.mark.parametrize(("flag", "value"), [("step_aggregate", "product"), ("placeholder_token", "\\n")])
def test_flags_of_steps_are_refused_for_models_of_whole_responses(
    flag: str, value: str, directory: Path
) -> None:
    with pytest.raises(UserError, match=rf"--{flag.replace('_', '-')} is for models of --stage prm"):
        plan(directory, prompt_type="empty", **{flag: value})
