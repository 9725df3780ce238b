"""The command generate: rows, what score reads of them, and runs that were stopped."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file

from modellink_rm.base.errors import run_command
from modellink_rm.checkpoint.base_reference import checkpoint_reference
from modellink_rm.checkpoint.files import CHECKSUMS_FILE, describe_files, files_json
from modellink_rm.commands.generate import main
from modellink_rm.config.generate import PolicyConfig, SamplingConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.generation.plan import plan_generation
from modellink_rm.generation.prompts import PromptReader
from modellink_rm.generation.transformers_engine import TransformersEngine
from modellink_rm.inference.reader import RecordReader
from modellink_rm.tokenizers.load import load_tokenizer
from tests.marks import full
from tests.tiny_data import write_rows, write_tokenizer
from tests.tiny_models import write_tiny_llama
from tests.unit.generation.conftest import NUM_PROMPTS

FIXTURE = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1"
FLAGS = "--prompt-type llama2 --max-new-tokens 6 --batch-size 2"


def generate(policy: Path, prompts: Path, flags: str) -> int:
    return run_command(main, [*f"--load {policy} --input {prompts} {FLAGS} {flags}".split()])


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_have_the_answers_beside_the_records_fields(
    policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts.write_text(prompts.read_text() + '{"id": 13}\n{"id": 14, "prompt": "the cat", "chosen": "x"}\n')
    output = tmp_path / "answers.jsonl"
    assert generate(policy, prompts, f"--num-answers 3 --output {output}") == 1
    rows = rows_of(output)
    assert [row["id"] for row in rows] == list(range(NUM_PROMPTS + 2))
    assert rows[13] == {
        "id": 13,
        "error": f"{prompts}:14: no prompt: --handler-name says how to read another form",
    }
    for row in (*rows[:13], rows[14]):
        assert list(row) == ["id", "prompt", "responses", "num_tokens", "ended"]
        assert len(row["responses"]) == len(row["num_tokens"]) == len(row["ended"]) == 3
        assert all(
            (count < 6) or not ended for count, ended in zip(row["num_tokens"], row["ended"], strict=True)
        )
        assert len(RecordReader()(row).responses) == 3
    told = capsys.readouterr()
    assert f"prompts: {NUM_PROMPTS + 2} | answers: {3 * NUM_PROMPTS + 3} | mean length: " in told.out
    assert told.out.rstrip().endswith("not answered: 1")


@pytest.mark.parametrize(
    "sampling", ["--num-answers 2 --top-p 0.9 --temperature 0.7", full("--temperature 0")]
)
def test_a_stopped_run_goes_on_with_the_bytes_of_one_that_was_not(
    policy: Path, prompts: Path, tmp_path: Path, sampling: str
) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    assert generate(policy, prompts, f"{sampling} --output {whole}") == 0
    made, streams, token_ids = [], set(), TransformersEngine.token_ids

    def stops(self, requests):
        made.append(len(requests))
        streams.update(one.stream for one in requests)
        if len(made) == 2:
            raise KeyboardInterrupt
        return token_ids(self, requests)

    with patch.object(TransformersEngine, "token_ids", stops):
        assert generate(policy, prompts, f"{sampling} --output {output}") == 130
        assert not output.exists()
        assert generate(policy, prompts, f"{sampling} --output {output} --resume") == 0
    assert output.read_bytes() == whole.read_bytes()
    num_answers = 2 if "--num-answers" in sampling else 1
    assert sum(made) == NUM_PROMPTS * num_answers + made[1]  # the block that was stopped, and no other
    assert len(streams) == NUM_PROMPTS * num_answers  # each answer has random numbers of its own
    assert not list(tmp_path.glob(".answers*"))


@contextmanager
def stopped_after_a_block() -> Iterator[None]:
    """A run is stopped while it answers its second block."""
    token_ids, calls = TransformersEngine.token_ids, iter([False, True])

    def stops(self, requests):
        if next(calls):
            raise KeyboardInterrupt
        return token_ids(self, requests)

    with patch.object(TransformersEngine, "token_ids", stops):
        yield


def test_a_run_with_another_seed_is_not_continued(
    policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "answers.jsonl"
    with stopped_after_a_block():
        assert generate(policy, prompts, f"--output {output}") == 130
    assert generate(policy, prompts, f"--output {output} --seed 5 --resume") == 2
    assert "is of a run with another seed" in capsys.readouterr().err


def test_a_run_with_another_handler_in_the_file_is_not_continued(
    policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler, output = tmp_path / "mine.py", tmp_path / "answers.jsonl"
    handler.write_text(
        "from modellink_rm.handlers.prompt_response import PromptResponseHandler\n\n\n"
        "class Mine(PromptResponseHandler):\n    pass\n"
    )
    flags = f"--handler-name {handler}:Mine --output {output}"
    with stopped_after_a_block():
        assert generate(policy, prompts, flags) == 130
    handler.write_text(handler.read_text() + "\n")
    assert generate(policy, prompts, f"{flags} --resume") == 2
    assert "is of a run with another model, tokenizer or handler" in capsys.readouterr().err


@pytest.mark.parametrize("sampling", ["--num-answers 2", "--temperature 0"])
def test_logits_that_are_no_numbers_are_no_answers(
    sampling: str, policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """NaN in the embedding of a token spoils the prompts that have it; in the head, every one."""
    output = tmp_path / "answers.jsonl"
    tensors = load_file(policy / "model.safetensors")
    with_nan = Path(shutil.copytree(policy, tmp_path / "nan"))
    cat = load_tokenizer(TokenizerConfig(tokenizer_name_or_path=str(policy))).encode("cat")[-1]
    write_rows(prompts, [{"prompt": "the sun"}, {"prompt": "the cat"}])
    for name, row in (("model.embed_tokens.weight", cat), ("lm_head.weight", 5)):
        damaged = {**tensors, name: tensors[name].clone()}
        damaged[name][row] = torch.nan
        save_file(damaged, with_nan / "model.safetensors", metadata={"format": "pt"})
        code = generate(with_nan, prompts, f"{sampling} --output {output}")
        told = capsys.readouterr()
        if name == "lm_head.weight":
            assert (code, output.exists()) == (2, False)
            assert "the logits for each of the 2 prompts are no finite numbers" in told.err
            continue
        assert code == 1
        assert ["error" in row for row in rows_of(output)] == [False, True]
        assert rows_of(output)[1]["error"] == f"{prompts}:2: the model's logits are no finite numbers"
        output.unlink()
    assert not list(tmp_path.glob(".answers*"))


def test_a_tokenizer_of_more_ids_than_the_model_is_told_by_the_prompts(
    policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = Path(shutil.copytree(policy, tmp_path / "small"))
    write_tiny_llama(small, num_hidden_layers=1, vocab_size=270)
    write_rows(prompts, [{"prompt": "the cat sings"}])
    assert generate(small, prompts, "") == 1
    assert "and the model 270 embedding rows: give the tokenizer that belongs" in capsys.readouterr().err


def test_an_exported_policy_that_changed_is_not_answered_with(
    policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = Path(shutil.copytree(policy, tmp_path / "exported"))
    weights = exported / "model.safetensors"
    (exported / CHECKSUMS_FILE).write_bytes(files_json(describe_files(exported, [weights])))
    content = bytearray(weights.read_bytes())
    content[-100] ^= 4
    weights.write_bytes(content)
    assert generate(exported, prompts, "") == 2
    assert f"{weights} has changed since it was written" in capsys.readouterr().err


def test_an_export_of_another_checkpoint_is_not_continued_with(
    policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = Path(shutil.copytree(policy, tmp_path / "exported"))
    checkpoint = FIXTURE / "iter_0000002"
    flags = f"--export-to {exported} --output {tmp_path / 'answers.jsonl'} --resume"
    for fingerprint, code in (("", 2), ("another", 2), (checkpoint_reference(checkpoint).fingerprint, 0)):
        entries = describe_files(exported, [exported / "model.safetensors"])
        (exported / CHECKSUMS_FILE).write_bytes(files_json(entries, checkpoint=fingerprint))
        assert generate(checkpoint, prompts, flags) == code
        assert (f"is there, and not an export of {checkpoint}" in capsys.readouterr().err) == (code == 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"architectures": 5, "eos_token_id": [True, -3, {}, 2], "max_position_embeddings": True},
        {"architectures": None, "eos_token_id": "2", "max_position_embeddings": -1, "text_config": 7},
    ],
)
def test_odd_values_of_a_config_are_passed_over(
    fields: dict[str, Any], policy: Path, prompts: Path, tmp_path: Path
) -> None:
    """What decides whether they can be used is transformers, which opens the model."""
    odd = tmp_path / "odd"
    write_tokenizer(odd)
    config = json.loads((policy / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**config, **fields}))
    flags = PolicyConfig(load=str(odd), prompt_type="llama2")
    plan = plan_generation(flags, SamplingConfig(), TokenizerConfig(), PromptReader(None, None))
    assert plan.prompts.max_prompt_tokens is None
    assert 2 in plan.ends.end_ids


def test_the_limit_of_a_model_is_found_under_the_names_that_families_give_it(
    policy: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "odd"
    write_tokenizer(odd)
    for fields in ({"n_positions": 600}, {"max_seq_len": 600}, {"text_config": {"seq_length": 600}}):
        (odd / "config.json").write_text(json.dumps(fields))
        flags = PolicyConfig(load=str(odd), prompt_type="llama2")
        plan = plan_generation(flags, SamplingConfig(), TokenizerConfig(), PromptReader(None, None))
        assert plan.prompts.max_prompt_tokens == 88


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
def test_kernels_of_the_hub_are_foreign_code(
    field: str, policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({field: "someone/attention"}))
    assert generate(tmp_path, prompts, "") == 2
    assert f"{field} 'someone/attention' is code of the hub" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--temperature 0 --num-answers 2", "--num-answers 2 with --temperature 0 would be equal answers"),
        ("--num-answers 1000000000", "--num-answers must be at most 65536, got 1000000000"),
        ("--temperature 1e-30", "--temperature must be 0 or at least 1e-06, got 1e-30"),
        ("--top-p 1.5", "--top-p must lie between 0 and 1, got 1.5"),
        ("--resume", "--resume needs --output"),
        ("--vllm-gpus 2", "--vllm-gpus 2 needs --engine vllm: transformers takes one GPU"),
        ("--map-keys {}", "--map-keys needs --handler-name"),
        ("--max-new-tokens 512", "leaves no room for a prompt: the model has 512 positions"),
        ("--engine vllm", "--engine vllm: vLLM is not installed in this environment"),
        ("--handler-name SharegptStylePairwiseHandler", ""),
    ],
)
def test_flags_that_cannot_work_are_refused_in_one_line(
    policy: Path, prompts: Path, flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = generate(policy, prompts, flags)
    told = capsys.readouterr().err
    assert code == (2 if message else 1)
    assert "Traceback" not in told
    assert message in told


def test_what_is_no_language_model_is_refused_before_it_is_read(
    policy: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_llama(tmp_path / "reward", num_hidden_layers=1, kind="score")
    (tmp_path / "empty").mkdir()
    for load, message in (
        ("reward", "is a LlamaForSequenceClassification, which has no language-model head"),
        ("empty", "is neither a Hugging Face directory (no config.json) nor a checkpoint of this tool"),
        (FIXTURE, "is a checkpoint of this tool: --export-to DIR makes a Hugging Face directory of it"),
        ("nowhere", "there is no such directory"),
    ):
        assert generate(tmp_path / load, prompts, "") == 2
        assert message in capsys.readouterr().err
    assert generate(policy, prompts, f"--export-to {tmp_path / 'out'}") == 2
    assert "--export-to is for checkpoints of this tool" in capsys.readouterr().err
    with patch.dict("os.environ", {"RANK": "0", "WORLD_SIZE": "2"}):
        assert generate(policy, prompts, "") == 2
    assert "generate is one process, and torchrun started 2" in capsys.readouterr().err
