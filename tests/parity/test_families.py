"""Every family's hidden states, scores and gradients equal transformers', wherever the model's parts lie.

    python -m tests.parity.test_families

prints the table of docs/models.md.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modellink_rm.model.families.registry import shape_from_config
from tests.distributed import Workers
from tests.marks import full
from tests.parity.comparison import Differences, differences, opened_difference, write_case
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
# Combinations of several processes that every run of the tests has: norms of queries and keys, whose
# gradients are sums over processes (TP2 alone: under SP the engine sums those of every norm), windows with
# angles of their own, and angles by the length of each sequence.
QUICK = {("TP2", "qwen3"), ("CP2", "gemma-3"), ("CP2", "phi-3-128k-long")}
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
        (layout, family) if not LAYOUTS[layout] or (layout, family) in QUICK else full(layout, family)
        for family in CASES
        for layout in layouts_of(family)
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
    if layout == "one process" and CASES[family].has_class:
        assert opened_difference(tmp_path) < TOLERANCE


@pytest.mark.parametrize(
    "flags",
    [
        "--recompute-granularity selective",
        full("--recompute-granularity full"),
        full("--router-z-loss-coef 1e-12"),  # nothing, but the last layer is computed for all tokens
    ],
)
def test_latent_attention_that_is_computed_otherwise_gives_the_numbers_of_transformers(
    flags: str, workers: Workers, tmp_path: Path
) -> None:
    write_case(CASES["deepseek-v2"], tmp_path / "read")
    arguments = [*flags.split(), "--make-vocab-size-divisible-by", "1"]
    (found,) = workers.run(differences, 1, str(tmp_path / "read"), arguments, True, str(tmp_path / "written"))
    assert found.largest() < TOLERANCE, found


@pytest.mark.parametrize("sizes", ["published", "tiny"])
@pytest.mark.parametrize("family", [family for family, case in CASES.items() if case.has_class])
def test_config_that_transformers_saves_describes_the_same_model(
    family: str, sizes: str, tmp_path: Path
) -> None:
    case = CASES[family]
    config = case.published_config() if sizes == "published" else case.tiny_config()
    case.reference(config).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert shape_from_config(saved) == shape_from_config(config)


@pytest.mark.parametrize("family", [full(family) for family in CASES])
def test_prompts_apart_give_the_numbers_of_transformers(
    family: str, workers: Workers, tmp_path: Path
) -> None:
    (found,) = compare(workers, family, "one process", tmp_path, share_prefixes=False)
    assert found.largest() < TOLERANCE, found


def main(families: Sequence[str]) -> None:
    """Print a row for each family (all without arguments), and the layouts that were tried."""
    workers = Workers()
    print("| family | checked config | hidden state | score | gradient | tried | written, opened by |")
    print("|---|---|---|---|---|---|---|")
    for family in families or CASES:
        found: list[Differences] = []
        opens = CASES[family].has_class
        for layout in layouts_of(family):
            with tempfile.TemporaryDirectory() as directory:
                found += compare(workers, family, layout, Path(directory))
                opens = opens and opened_difference(Path(directory)) < TOLERANCE
        hidden, score, gradient = (
            max(getattr(one, name) for one in found) for name in ("hidden", "score", "gradient")
        )
        tried = ", ".join(layout for layout in layouts_of(family) if LAYOUTS[layout])
        cells = (
            family,
            f"`{CASES[family].published}` {CASES[family].remark}".rstrip(),
            *(f"{value:.1e}" for value in (hidden, score, gradient)),
            tried,
            "transformers" if opens else "",
        )
        print(f"| {' | '.join(cells)} |", flush=True)
    workers.close()


if __name__ == "__main__":
    main(sys.argv[1:])
