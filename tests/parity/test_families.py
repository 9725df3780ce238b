"""Every family's hidden states, scores and gradients equal transformers', wherever the model's parts lie.

    python -m tests.parity.test_families

prints the table of docs/models.md.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed import Workers
from tests.marks import full
from tests.parity.comparison import Differences, differences, write_case
from tests.parity.family_cases import CASES

LAYOUTS = {
    "one process": "",
    "TP2": "--tensor-model-parallel-size 2",
    "TP2+SP": "--tensor-model-parallel-size 2 --sequence-parallel",
    "PP2": "--pipeline-model-parallel-size 2",
    "CP2": "--context-parallel-size 2",
    "EP2": "--expert-model-parallel-size 2",
    "TP2+SP+EP2": "--tensor-model-parallel-size 2 --sequence-parallel --expert-model-parallel-size 2",
}
# Of the largest value of each tensor: float32 rounding over four layers, forward and backward.
TOLERANCE = 1e-5


def layouts_of(family: str) -> list[str]:
    """The layouts that divide something of the family."""
    has_experts = "num_experts_per_tok" in CASES[family].published_config()
    return [name for name, flags in LAYOUTS.items() if has_experts or "expert" not in flags]


def compare(
    workers: Workers, family: str, layout: str, directory: Path, *, share_prefixes: bool = True
) -> list[Differences]:
    """Every rank's differences; the model is read, and written again, below `directory`."""
    write_case(CASES[family], directory / "read")
    flags = [*LAYOUTS[layout].split(), "--make-vocab-size-divisible-by", "1"]
    share_prefixes = share_prefixes and CASES[family].shares_prompts
    arguments = (str(directory / "read"), flags, share_prefixes, str(directory / "written"))
    found: list[Differences] = workers.run(differences, 2 if LAYOUTS[layout] else 1, *arguments)
    return found


def tensors_in(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the model; each pipeline stage writes files of its own."""
    files = directory.glob("model*.safetensors")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(
    ("layout", "family"),
    [
        *(("one process", family) for family in CASES),
        *(full(layout, family) for family in CASES for layout in layouts_of(family) if LAYOUTS[layout]),
    ],
)
def test_numbers_are_those_of_transformers_and_tensors_come_back(
    layout: str, family: str, workers: Workers, tmp_path: Path
) -> None:
    for found in compare(workers, family, layout, tmp_path):
        assert found.largest() < TOLERANCE, found
    read, written = (tensors_in(tmp_path / name) for name in ("read", "written"))
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in read)


@pytest.mark.parametrize("family", [full(family) for family in CASES])
def test_prompts_apart_give_the_numbers_of_transformers(
    family: str, workers: Workers, tmp_path: Path
) -> None:
    (found,) = compare(workers, family, "one process", tmp_path, share_prefixes=False)
    assert found.largest() < TOLERANCE, found


def main(families: Sequence[str]) -> None:
    """Print a row for each family (all without arguments), and the layouts that were tried."""
    workers = Workers()
    print("| family | checked config | hidden state | score | gradient | tried |")
    print("|---|---|---|---|---|---|")
    for family in families or CASES:
        found: list[Differences] = []
        for layout in layouts_of(family):
            with tempfile.TemporaryDirectory() as directory:
                found += compare(workers, family, layout, Path(directory))
        hidden, score, gradient = (
            max(getattr(one, name) for one in found) for name in ("hidden", "score", "gradient")
        )
        config = f"`{CASES[family].published}`"
        tried = ", ".join(layout for layout in layouts_of(family) if LAYOUTS[layout])
        print(f"| {family} | {config} | {hidden:.1e} | {score:.1e} | {gradient:.1e} | {tried} |", flush=True)
    workers.close()


if __name__ == "__main__":
    main(sys.argv[1:])
