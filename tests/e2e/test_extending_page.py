"""docs/extending.md: the package that the page prints is installed, and its commands run as printed."""

import json
import os
import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.tiny_data import random_text, write_tokenizer
from tests.tiny_models import write_tiny_llama

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
NUM_RECORDS = 24
# Llama's name of a tensor -> Owl's.
RENAMED = {
    r"^model\.embed_tokens": "owl.tokens",
    r"^model\.norm": "owl.last_norm",
    r"^model\.layers\.": "owl.blocks.",
    r"input_layernorm": "norm_1",
    r"post_attention_layernorm": "norm_2",
    r"self_attn\.q_proj": "query",
    r"self_attn\.k_proj": "key",
    r"self_attn\.v_proj": "value",
    r"self_attn\.o_proj": "attention_out",
    r"mlp\.(gate|up|down)_proj": r"\1",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def install(directory: Path) -> None:
    """Write the page's files, with the metadata that pip makes of its pyproject.toml."""
    for block in blocks("python"):
        (name,) = re.findall(r"\A# (\S+\.py)$", block, re.MULTILINE)
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(block)
    (pyproject,) = blocks("toml")
    project = tomllib.loads(pyproject)["project"]
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    name, version = project["name"], project["version"]
    metadata = directory / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "entry_points.txt").write_text("\n".join(lines))


def write_owl(directory: Path, llama: Path) -> None:
    """The Llama of another directory, stored as an Owl."""
    directory.mkdir()
    config = json.loads((llama / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "model_type": "owl"}))
    weights = {}
    for name, tensor in load_file(llama / "model.safetensors").items():
        for pattern, owls in RENAMED.items():
            name = re.sub(pattern, owls, name)
        weights[name] = tensor - 1 if "norm" in name else tensor
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(directory)


def votes() -> list[dict[str, object]]:
    generator = random.Random(5)
    return [
        {
            "question": random_text(generator),
            "answers": [{"text": random_text(generator), "votes": number % 7 + side} for side in (0, 3)],
        }
        for number in range(NUM_RECORDS)
    ]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's commands have run."""
    directory = tmp_path_factory.mktemp("extending")
    install(directory / "site")
    write_tiny_llama(directory / "llama-model")
    write_tokenizer(directory / "llama-model")
    write_owl(directory / "owl-model", directory / "llama-model")
    (directory / "votes.jsonl").write_text("".join(json.dumps(record) + "\n" for record in votes()))
    (commands,) = blocks("bash")
    (directory / "printed.txt").write_text(run(directory, commands))
    return directory


def run(directory: Path, commands: str) -> str:
    """What the commands print, in the environment of a user who installed the package."""
    script = f'set -e\nmodellink-rm() {{ "{sys.executable}" -m modellink_rm "$@"; }}\n{commands}'
    path = os.pathsep.join([str(ROOT), str(directory / "site")])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def first_step(save: Path) -> dict[str, float]:
    return json.loads((save / "metrics.jsonl").read_text().splitlines()[0])


def test_page_offers_one_entry_for_every_registry() -> None:
    (pyproject,) = blocks("toml")
    groups = tomllib.loads(pyproject)["project"]["entry-points"]
    sources = "".join(path.read_text() for path in (ROOT / "modellink_rm").rglob("*.py"))
    assert set(groups) == set(re.findall(r'entry_points="([\w.]+)"', sources))
    assert [group for group in groups if f"| `{group}` |" not in PAGE] == []


@pytest.mark.full
def test_handler_and_template_of_the_page_make_the_data(directory: Path) -> None:
    manifest = json.loads((directory / "data" / "votes_manifest.json").read_text())
    assert manifest["num_kept"] == NUM_RECORDS
    assert manifest["template"] == "owl"
    assert manifest["template_definition"]["format_user"] == {"slots": ["Question: {{content}}\nAnswer:"]}


@pytest.mark.full
def test_command_of_the_page_reads_the_margins_of_the_handler(directory: Path) -> None:
    assert f"{NUM_RECORDS} margins, from 3 to 3" in (directory / "printed.txt").read_text()


@pytest.mark.full
def test_family_of_the_page_has_the_loss_of_the_llama_that_it_stores(directory: Path) -> None:
    (commands,) = blocks("bash")
    train = commands[commands.index("modellink-rm train") : commands.index("modellink-rm score")]
    run(directory, train.replace("owl-model", "llama-model").replace("checkpoints/owl", "checkpoints/llama"))
    owl, llama = (first_step(directory / "checkpoints" / name) for name in ("owl", "llama"))
    assert owl["loss"] == pytest.approx(llama["loss"], rel=1e-5)  # float32: 1 + (w - 1) is rounded


@pytest.mark.full
def test_loss_of_the_page_is_trained_on(directory: Path) -> None:
    step = first_step(directory / "checkpoints" / "owl")
    assert step["loss"] == pytest.approx(1 - step["margin"])  # no margin is above 1 in a random model


@pytest.mark.full
def test_a_checkpoint_of_the_page_scores_records_of_its_handler(directory: Path) -> None:
    lines = [json.loads(line) for line in (directory / "scores.jsonl").read_text().splitlines()]
    assert len(lines) == NUM_RECORDS
    assert all({"chosen_score", "rejected_score"} <= line.keys() for line in lines)
