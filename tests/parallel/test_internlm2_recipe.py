"""InternLM2's recipe, from pairs to a directory that its own class reads: its loss and its reward token."""

import dataclasses
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.contract import read_contract
from modellink_rm.checkpoint.layout import find_checkpoint
from modellink_rm.commands.preprocess import main as preprocess_main
from modellink_rm.commands.train import run_config
from modellink_rm.train.plan import plan_run
from tests.distributed import Workers
from tests.parallel.test_export import export_on_rank, import_on_rank
from tests.parity.family_cases import CASES
from tests.runs import run_training
from tests.tiny_data import random_text
from tests.unit.conftest import train_tokenizer_json

SCRIPT = Path(__file__).parents[2] / "examples" / "reward_internlm2_7B.sh"
SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|reward|>"]
QUESTIONS = [("the cat", "sings"), ("a river and <|reward|> a stone", "falls\nand runs")]


def write_model(directory: Path) -> None:
    """A tiny InternLM2 with random weights, and a tokenizer that has the recipe's tokens."""
    case = dataclasses.replace(CASES["internlm2"], changes={"vocab_size": 600})
    case.write(directory, case.model().state_dict())
    train_tokenizer_json(special=SPECIAL).save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def recipe_flags() -> list[str]:
    """The flags that the script gives on its own."""
    command = SCRIPT.read_text().replace("\\\n", " ").splitlines()[-1]
    words = command.partition('launch_reward.sh"')[2].split()
    return [word for word in words if word != '"$@"']


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("internlm2")
    write_model(directory / "model")
    generator = random.Random(3)
    texts = [[random_text(generator) for _ in range(3)] for _ in range(24)]
    records = [dict(zip(("instruction", "chosen", "rejected"), one, strict=True)) for one in texts]
    (directory / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)))
    written = re.search(r"--prompt-type intern2 --reward-token '(.*?)'", SCRIPT.read_text())
    assert written is not None
    words = f"--input {directory}/pairs.jsonl --handler-name AlpacaStylePairwiseHandler --prompt-type intern2"
    words += f" --reward-token {written[1]} --tokenizer-name-or-path {directory}/model"
    assert preprocess_main([*words.split(), "--output-prefix", str(directory / "data")]) == 0
    return directory


def flags_of(directory: Path) -> list[str]:
    words = (
        f"--stage rm --is-pairwise-dataset --load {directory}/model --load-checkpoint-loosely --finetune "
        f"--prompt-type intern2 --data-path {directory}/data --split 20,4,0 --seq-length 64 --lr 1e-3 "
        "--lr-decay-style cosine --global-batch-size 4 --train-iters 3 --eval-iters 1"
    )
    return [*words.split(), *recipe_flags()]


def reference(directory: Path) -> tuple[LlamaForSequenceClassification, dict[str, Any]]:
    """The directory's model as a Llama, which computes what InternLM2 does; and its config.json."""
    config = json.loads((directory / "config.json").read_text())
    names = {
        "model.tok_embeddings": "model.embed_tokens",
        "v_head": "score",
        "attention.wo": "self_attn.o_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w3": "mlp.up_proj",
        "feed_forward.w2": "mlp.down_proj",
    }
    found = {}
    for name, tensor in load_file(directory / "model.safetensors").items():
        if "wqkv" in name:
            head_size = config["hidden_size"] // config["num_attention_heads"]
            groups = tensor.unflatten(0, (config["num_key_value_heads"], -1, head_size))
            parts = groups[:, :-2], groups[:, -2:-1], groups[:, -1:]
            for part, rows in zip("qkv", parts, strict=True):
                found[name.replace("attention.wqkv", f"self_attn.{part}_proj")] = rows.flatten(0, 2)
            continue
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        found[name] = tensor
    fields = {**config, "model_type": "llama", "num_labels": 1, "attn_implementation": "eager"}
    model = LlamaForSequenceClassification(LlamaConfig.from_dict(fields)).eval()
    model.load_state_dict(found)
    return model, config


@torch.no_grad()
def get_score(directory: Path, question: str, answer: str) -> float:
    """As InternLM2ForRewardModel.get_score, which appends the reward token to the rendered conversation."""
    model, config = reference(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    ids = [*tokenizer.encode(text, add_special_tokens=False), config["reward_token_id"]]
    hidden_states = model.model(torch.tensor([ids])).last_hidden_state
    return float(model.score(hidden_states)[0, -1, 0])


def scores_of(load: str, prompt_type: str | None = None) -> list[Any]:
    from modellink_rm import Scorer

    with Scorer.open(load, prompt_type=prompt_type) as scorer:
        return scorer.score([{"prompt": question, "response": answer} for question, answer in QUESTIONS])


def test_recipe_gives_a_directory_that_its_own_class_scores_alike(
    directory: Path, workers: Workers, tmp_path: Path
) -> None:
    run = run_training(workers, 1, flags_of(directory), tmp_path / "save")
    assert len(run.steps) == 3
    assert all(row["range_penalty"] != 0 for row in run.steps)
    checkpoint = find_checkpoint(tmp_path / "save")
    assert checkpoint is not None
    contract = read_contract(checkpoint)
    assert contract.eos_rule is not None
    assert contract.eos_rule.endswith(", then <|reward|>")
    assert contract.truncation == "keep-ends"

    written = tmp_path / "written"
    workers.run(export_on_rank, 1, str(checkpoint), str(written), {}, {})
    config = json.loads((written / "config.json").read_text())
    assert config["architectures"] == ["InternLM2ForRewardModel"]
    tokenizer = AutoTokenizer.from_pretrained(written, trust_remote_code=False)
    assert config["reward_token_id"] == tokenizer.convert_tokens_to_ids("<|reward|>")
    assert "`get_score` appends `<|reward|>`" in (written / "README.md").read_text()
    (ours,) = workers.run(scores_of, 1, str(tmp_path / "save"))
    # A conversation that spells the token is read otherwise by transformers, which takes it for the token.
    assert get_score(written, *QUESTIONS[0]) == pytest.approx(ours[0], abs=1e-5)

    # The directory is scored with the token that its config.json names, and so is what is imported of it.
    (again,) = workers.run(scores_of, 1, str(written), "hf")
    assert again[0] == pytest.approx(ours[0], abs=1e-5)
    workers.run(import_on_rank, 1, str(written), str(tmp_path / "imported"), {"prompt_type": None}, {})
    (imported,) = workers.run(scores_of, 1, str(tmp_path / "imported"))
    assert imported == pytest.approx(ours, abs=1e-5)


def test_truncation_that_cuts_the_token_off_is_refused_before_the_run(directory: Path) -> None:
    words = [word if word != "keep-ends" else "right" for word in flags_of(directory)]
    with pytest.raises(UserError, match=r"--truncation right cuts off <\|reward\|>"):
        plan_run(run_config(words), world_size=1)
