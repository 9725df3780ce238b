"""A process reward model from records to scores: score, evaluate, serve, export and import agree."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.commands.preprocess import main as preprocess_main
from tests.distributed import Workers
from tests.lora_reference import apply_adapter
from tests.marks import full
from tests.parallel.test_export import export_on_rank, import_on_rank
from tests.parallel.test_lora import export_on_rank as export_adapter_on_rank
from tests.runs import run_training
from tests.tiny_data import random_text, write_tokenizer
from tests.tiny_models import write_tiny_llama
from tests.unit.serving.served import Asked, answers_of

PLACEHOLDER = " so"


def records(number: int, *, seed: int = 5) -> list[dict[str, Any]]:
    generator = random.Random(seed)
    found = []
    for _ in range(number):
        steps = [random_text(generator, 2, 5) for _ in range(generator.randint(1, 5))]
        labels = ["falls" not in step for step in steps]
        found.append({"prompt": random_text(generator, 2, 5), "completions": steps, "labels": labels})
    return found


@pytest.fixture(scope="module")
def checkpoint(workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained for a few steps, through the commands."""
    directory = tmp_path_factory.mktemp("process")
    write_tiny_llama(directory / "model")
    write_tokenizer(directory / "model")
    (directory / "steps.jsonl").write_text("\n".join(map(json.dumps, records(40))))
    words = (
        f"--input {directory}/steps.jsonl --handler-name StepwiseHandler --prompt-type llama2 "
        f"--tokenizer-name-or-path {directory}/model --output-prefix {directory}/steps --placeholder-token"
    )
    assert preprocess_main([*words.split(), PLACEHOLDER]) == 0
    flags = (
        f"--stage prm --load {directory}/model --load-checkpoint-loosely --data-path {directory}/steps "
        "--split 1,0,0 --seq-length 128 --lr 1e-2 --global-batch-size 8 --micro-batch-size 8 "
        "--train-iters 4 --make-vocab-size-divisible-by 1"
    )
    run_training(workers, 1, flags.split(), directory / "run")
    return directory / "run"


def step_scores(load: str, given: list[dict[str, Any]], options: dict[str, Any]) -> list[Any]:
    """Aggregate and probabilities of every record, and the ids with the ends of the steps."""
    from modellink_rm import Scorer
    from modellink_rm.records import Record

    with Scorer.open(load, **options) as scorer:
        inputs = scorer.read([Record(str(number), dict(one)) for number, one in enumerate(given)])
        results = scorer.results_of(inputs)
        sequences = [
            (one.example.responses[0].input_ids.tolist(), one.example.responses[0].step_ends)
            for one in inputs
        ]
    return [(one.scores[0], one.steps, *two) for one, two in zip(results, sequences, strict=True)]


def transformers_probabilities(directory: str, sequences: list[tuple[list[int], list[int]]]) -> Any:
    """The probabilities of the label 1 at the ends of steps."""
    import torch
    from transformers import AutoModelForTokenClassification

    model = AutoModelForTokenClassification.from_pretrained(directory).eval()
    assert model.config.id2label == {0: "wrong", 1: "right"}
    with torch.no_grad():
        return [
            model(torch.tensor([ids])).logits[0, list(ends)].softmax(dim=-1)[:, 1].tolist()
            for ids, ends in sequences
        ]


@pytest.mark.full
def test_scores_of_steps_are_those_of_transformers_and_come_back(
    checkpoint: Path, workers: Workers, tmp_path: Path
) -> None:
    given = records(6, seed=9)
    (found,) = workers.run(step_scores, 1, str(checkpoint), given, {"step_aggregate": "product"})
    written, imported = str(tmp_path / "written"), str(tmp_path / "imported")
    workers.run(export_on_rank, 1, str(checkpoint), written, {}, {})  # which compares with transformers too
    (theirs,) = workers.run(transformers_probabilities, 1, written, [one[2:] for one in found])
    for (score, steps, _, ends), expected, record in zip(found, theirs, given, strict=True):
        assert len(steps) == len(ends) == len(record["completions"])
        assert steps == pytest.approx(expected, abs=1e-5)
        product = 1.0
        for step in steps:
            product *= step
        assert score == pytest.approx(product)
    (of_written,) = workers.run(step_scores, 1, written, given, {"step_aggregate": "product"})
    workers.run(import_on_rank, 1, written, imported, {}, {})
    (of_imported,) = workers.run(step_scores, 1, imported, given, {"step_aggregate": "product"})
    for one, two, three in zip(found, of_written, of_imported, strict=True):
        assert two[0] == pytest.approx(one[0], abs=1e-6)
        assert three[0] == pytest.approx(one[0], abs=1e-6)
        assert one[2:] == two[2:] == three[2:]
    assert "token-classification" in (Path(written) / "README.md").read_text()


def adapter_probabilities(
    base: str, adapter: str, sequences: list[tuple[list[int], list[int]]], opener: str
) -> list[list[float]]:
    """The probabilities of the label 1 at the ends of steps, of an adapter by its formula or by PEFT."""
    import torch
    from transformers import AutoModelForTokenClassification

    model = AutoModelForTokenClassification.from_pretrained(base, num_labels=2, dtype=torch.float32).eval()
    if opener == "peft":
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).eval()
    else:
        apply_adapter(model, Path(adapter))
    with torch.no_grad():
        return [
            model(torch.tensor([ids])).logits[0, list(ends)].softmax(dim=-1)[:, 1].tolist()
            for ids, ends in sequences
        ]


@pytest.mark.full
@pytest.mark.parametrize(("size", "opener"), [("one", "formula"), ("tp2", "formula"), ("one", "peft")])
def test_adapters_in_pefts_form_give_the_scores_of_steps(
    size: str, opener: str, checkpoint: Path, workers: Workers, tmp_path: Path
) -> None:
    if opener == "peft":
        pytest.importorskip("peft")
    base, world_size = str(checkpoint.parent / "model"), {"one": 1, "tp2": 2}[size]
    flags = (
        f"--stage prm --load {base} --load-checkpoint-loosely --data-path {checkpoint.parent}/steps "
        "--split 1,0,0 --seq-length 128 --lr 1e-2 --global-batch-size 8 --micro-batch-size 8 --lora-r 4 "
        f"--train-iters 4 --make-vocab-size-divisible-by 1 --tensor-model-parallel-size {world_size}"
    )
    run_training(workers, world_size, flags.split(), tmp_path / "run")
    adapter = str(tmp_path / "adapter")
    sizes = {"tensor_model_parallel_size": world_size}
    workers.run(export_adapter_on_rank, world_size, str(tmp_path / "run"), adapter, {}, sizes)
    given = records(6, seed=9)
    (found,) = workers.run(step_scores, 1, str(tmp_path / "run"), given, {})
    (theirs,) = workers.run(adapter_probabilities, 1, base, adapter, [one[2:] for one in found], opener)
    for (_, steps, *_), expected in zip(found, theirs, strict=True):
        assert list(steps) == pytest.approx(expected, abs=1e-5)
    options = {"load_adapter": adapter, "placeholder_token": PLACEHOLDER, "prompt_type": "llama2"}
    (again,) = workers.run(step_scores, 1, base, given, options)
    assert again == found
    assert "AutoModelForTokenClassification" in (Path(adapter) / "README.md").read_text()


@pytest.mark.parametrize(
    "sizes",
    [
        full({"tensor_model_parallel_size": 2}),
        full({"pipeline_model_parallel_size": 2}),
        full({"context_parallel_size": 2}),
        full({"max_tokens_per_micro_batch": 1}),
    ],
)
def test_divided_models_give_the_scores_of_one_process(
    sizes: dict[str, Any], checkpoint: Path, workers: Workers
) -> None:
    given = records(9, seed=2)
    (one,) = workers.run(step_scores, 1, str(checkpoint), given, {})
    for found in workers.run(step_scores, 2, str(checkpoint), given, sizes):  # without sizes: two replicas
        assert [list(steps) for _, steps, *_ in found] == [
            pytest.approx(list(steps), abs=1e-5) for _, steps, *_ in one
        ]


def on_command_line(name: str, words: list[str]) -> int:
    from importlib import import_module

    return int(import_module(f"modellink_rm.commands.{name}").main(words))


@pytest.mark.full
def test_commands_write_the_steps_and_find_the_first_wrong_one(
    checkpoint: Path, workers: Workers, tmp_path: Path
) -> None:
    given = records(8, seed=3)
    (found,) = workers.run(step_scores, 1, str(checkpoint), given, {"step_aggregate": "last"})
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, [*given, {"prompt": "q", "response": "a"}])))
    words = f"--load {checkpoint} --input {tmp_path}/in.jsonl --output {tmp_path}/out.jsonl"
    assert workers.run(on_command_line, 1, "score", [*words.split(), "--step-aggregate", "last"]) == [1]
    *rows, refused = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, record, (score, steps, *_) in zip(rows, given, found, strict=True):
        assert row == {**record, "score": pytest.approx(score), "step_scores": pytest.approx(list(steps))}
        assert score == steps[-1]
    assert "field 'completions' is missing" in refused["error"]

    labels = [next((n for n, step in enumerate(steps) if step <= 0.5), -1) for _, steps, *_ in found]
    labels[0] = 0 if labels[0] == -1 else -1  # one that the model does not find
    bench = [
        {"id": f"gsm8k-{number}", "problem": one["prompt"], "steps": one["completions"], "label": label}
        for number, (one, label) in enumerate(zip(given, labels, strict=True))
    ]
    (tmp_path / "gsm8k.json").write_text(json.dumps(bench))
    words = f"--load {checkpoint} --benchmark processbench={tmp_path}/gsm8k.json --output {tmp_path}/r.json"
    assert workers.run(on_command_line, 1, "evaluate", words.split()) == [0]
    (result,) = json.loads((tmp_path / "r.json").read_text())["models"][0]["benchmarks"]
    hits = {part["name"]: part for part in [*result["parts"]["with an error"], *result["parts"]["without"]]}
    assert set(hits) == {"gsm8k"}
    found_hits = sum(
        round(part["value"] * part["num_rows"])
        for kind in ("with an error", "without")
        for part in result["parts"][kind]
    )
    assert found_hits == len(given) - 1


def test_server_answers_with_the_scores_of_steps(checkpoint: Path, workers: Workers) -> None:
    (one, other), text = records(2, seed=4), "the cat sings so the dog runs so"
    bodies = [{"prompt": each["prompt"], "completions": each["completions"]} for each in (one, other)]
    asked = [
        Asked("/v1/score", bodies),
        Asked("/v1/score", {"prompt": "a", "response": "b"}),
        Asked("/pooling", {"input": text}),
        Asked("/pooling", {"input": "the cat"}),
        Asked("/classify", {"input": text}),
    ]
    ((answers, scores),) = workers.run(answers_of, 1, str(checkpoint), asked, [one, other])
    steps, refused, pooled, without, classified = answers
    assert [answer["score"] for answer in steps.json] == pytest.approx(scores)
    for answer, record in zip(steps.json, (one, other), strict=True):
        assert len(answer["step_scores"]) == len(record["completions"])
        assert answer["score"] == min(answer["step_scores"])
    ((first, second),) = [entry["data"] for entry in pooled.json["data"]]
    assert first[0] + first[1] == pytest.approx(1)
    assert second[0] + second[1] == pytest.approx(1)
    messages = [one.json["error"]["message"] for one in (refused, without, classified)]
    assert [one.status for one in (refused, without, classified)] == [422] * 3
    assert messages == [
        "the model scores steps: give prompt and completions, a list of the steps",
        "no step: the text that ends one is nowhere in the input",
        "the model scores steps: /v1/score and /pooling answer with their scores",
    ]
