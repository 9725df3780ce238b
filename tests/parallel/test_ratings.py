"""A model of ratings: equal over processes, scored with weights, exported with a label for each attribute."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.contract import read_contract
from modellink_rm.checkpoint.layout import find_checkpoint
from modellink_rm.commands.preprocess import main as preprocess_main
from modellink_rm.commands.train import run_config
from modellink_rm.train.plan import plan_run
from tests.distributed import Workers
from tests.marks import full
from tests.parallel.test_export import export_on_rank, import_on_rank
from tests.parallel.test_objectives import LAYOUTS
from tests.runs import RunResult, run_training
from tests.tiny_data import random_text, write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_llama

NAMES = ("helpfulness", "correctness", "verbosity")
WEIGHTS = "helpfulness=0.65,verbosity=-0.4"
QUESTIONS: list[dict[str, Any]] = [
    {"prompt": "the cat", "response": "sings"},
    {"prompt": "a river", "responses": ["runs", "falls"]},
]


def rated_records(number: int) -> list[dict[str, Any]]:
    """Responses with ratings from 0 to 4, a third of them missing, none without any."""
    generator = random.Random(5)
    records = []
    for _ in range(number):
        ratings = {name: generator.choice([None, 0, 1, 2, 3, 4, 2, 3]) for name in NAMES}
        ratings["correctness"] = generator.randint(0, 4)
        records.append({"prompt": random_text(generator), "response": random_text(generator), **ratings})
    return records


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ratings")
    write_tiny_llama(directory / "model")
    write_tokenizer(directory / "model")
    (directory / "in.jsonl").write_text("\n".join(map(json.dumps, rated_records(40))))
    words = f"--input {directory}/in.jsonl --handler-name RatedResponseHandler --prompt-type llama2"
    words += f" --tokenizer-name-or-path {directory}/model --output-prefix {directory}/rated"
    assert preprocess_main([*words.split(), "--map-keys", json.dumps({"attributes": ",".join(NAMES)})]) == 0
    return directory


@pytest.fixture(scope="module")
def flags(directory: Path) -> list[str]:
    words = (
        f"--stage rm --loss-type regression --load {directory}/model --load-checkpoint-loosely "
        f"--data-path {directory}/rated --split 30,10,0 --seq-length 48 --lr 1e-3 --eval-interval 2 "
        "--max-tokens-per-micro-batch 100 --global-batch-size 6 --train-iters 4 --eval-iters 1 "
        "--make-vocab-size-divisible-by 1"
    )
    return words.split()


@pytest.fixture(scope="module")
def checkpoint(flags: list[str], workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The --save of a run of one process, which the others are compared with."""
    save = tmp_path_factory.mktemp("one")
    run_training(workers, 1, flags, save)
    return save


def test_run_reports_each_attribute_and_its_contract_names_them(checkpoint: Path) -> None:
    rows = [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert "responses_per_second" in steps[0]
    assert "helpfulness_error" not in steps[0]
    evaluations = [row for row in rows if "valid/loss" in row]
    assert len(evaluations) == 3
    assert evaluations[-1]["valid/loss"] < evaluations[0]["valid/loss"]
    assert all(abs(evaluations[-1][f"valid/{name}_correlation"]) <= 1 for name in NAMES)
    found = find_checkpoint(checkpoint)
    assert found is not None
    assert read_contract(found).attributes == NAMES


@pytest.mark.parametrize("layout", ["dp2", *(full(name) for name in LAYOUTS if name != "dp2")])
def test_ratings_match_one_process(
    layout: str, flags: list[str], workers: Workers, tmp_path: Path, checkpoint: Path
) -> None:
    world_size, words = LAYOUTS[layout]
    run = run_training(workers, world_size, [*flags, *words.split()], tmp_path, saves=False)
    rows = [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()]
    single = RunResult(rows=rows, weights={})
    # Sums in another order, grown by four Adam steps at a large learning rate.
    assert run.column("loss") == pytest.approx(single.column("loss"), rel=1e-4)
    assert run.column("grad_norm") == pytest.approx(single.column("grad_norm"), rel=1e-3)
    assert run.steps[0]["loss"] == pytest.approx(single.steps[0]["loss"], rel=1e-6)
    assert run.steps[0]["grad_norm"] == pytest.approx(single.steps[0]["grad_norm"], rel=1e-5)
    assert run.weights["rm_head.weight"].shape == (3, 64)
    for ours, theirs in zip(run.rows, rows, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if name.startswith("valid/"):
                assert ours[name] == pytest.approx(value, abs=1e-3)


def scored(load: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that the command score writes."""
    from modellink_rm import Scorer
    from modellink_rm.inference.rows import KeptFields, output_row
    from modellink_rm.records import Record

    with Scorer.open(load, **options) as scorer:
        results = scorer.results([Record(str(number), dict(one)) for number, one in enumerate(QUESTIONS)])
    return [output_row({}, result, KeptFields()) for result in results]


def test_scores_are_weighted_sums_and_transformers_opens_the_export(
    checkpoint: Path, workers: Workers, tmp_path: Path
) -> None:
    ((one, several),) = workers.run(scored, 1, str(checkpoint), {"attribute_weights": WEIGHTS})
    attributes = one["attribute_scores"]
    assert tuple(attributes) == NAMES
    expected = 0.65 * attributes["helpfulness"] - 0.4 * attributes["verbosity"]
    assert one["score"] == pytest.approx(expected, abs=1e-12)
    assert [len(row) for row in several["attribute_scores"]] == [3, 3]
    assert len(several["scores"]) == 2

    written, imported = tmp_path / "written", tmp_path / "imported"
    # Compared below; the export's own comparison is a process more.
    workers.run(export_on_rank, 1, str(checkpoint), str(written), {"check_scores": False}, {})
    model = AutoModelForSequenceClassification.from_pretrained(written, dtype=torch.float32).eval()
    assert model.config.id2label == dict(enumerate(NAMES))
    tokenizer = AutoTokenizer.from_pretrained(written)
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sings"}]
    ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        theirs = model(**ids).logits[0].tolist()
    assert theirs == pytest.approx(list(attributes.values()), abs=1e-5)
    assert "model.config.id2label" in (written / "README.md").read_text()

    workers.run(import_on_rank, 1, str(written), str(imported), {"prompt_type": None}, {})
    ((again, _),) = workers.run(scored, 1, str(imported), {})
    assert again["attribute_scores"] == pytest.approx(attributes, abs=1e-5)
    assert again["score"] == again["attribute_scores"]["helpfulness"]


@pytest.mark.full
@pytest.mark.parametrize(
    "sizes", [{"tensor_model_parallel_size": 2}, {"pipeline_model_parallel_size": 2}, {}]
)
def test_two_processes_give_the_attributes_of_one(
    sizes: dict[str, int], checkpoint: Path, workers: Workers
) -> None:
    ((expected, _),) = workers.run(scored, 1, str(checkpoint), {})
    for found, _ in workers.run(scored, 2, str(checkpoint), sizes):
        assert found["attribute_scores"] == pytest.approx(expected["attribute_scores"], abs=1e-5)


def planned(words: list[str]) -> None:
    plan_run(run_config(words), world_size=1)


def test_head_and_data_that_do_not_fit_are_refused(
    checkpoint: Path, directory: Path, flags: list[str], tmp_path: Path
) -> None:
    write_random_rows(tmp_path / "pairs", 10)
    pairs = f"--stage rm --is-pairwise-dataset --train-iters 2 --seq-length 48 --load {checkpoint} --finetune"
    with pytest.raises(UserError, match="a head of the attributes helpfulness, correctness, verbosity, and"):
        planned([*pairs.split(), "--data-path", str(tmp_path / "pairs")])
    with pytest.raises(UserError, match=r"--data-path .* has ratings of single responses"):
        planned([*pairs.split(), "--data-path", str(directory / "rated")])
    with pytest.raises(UserError, match=r"--data-path .* has no ratings"):
        planned([*flags, "--data-path", str(tmp_path / "pairs")])
    with pytest.raises(UserError, match=r"of --loss-type regression have no accuracy; give loss$"):
        planned([*flags, "--save", str(tmp_path / "save"), "--save-best", "accuracy"])


@pytest.mark.full
def test_export_compares_every_attribute_with_transformers(
    checkpoint: Path, workers: Workers, tmp_path: Path
) -> None:
    workers.run(export_on_rank, 1, str(checkpoint), str(tmp_path / "written"), {}, {})
    assert (tmp_path / "written" / "model.safetensors").is_file()
