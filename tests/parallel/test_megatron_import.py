"""A checkpoint of ModelLink 1.0 scores as the Hugging Face directory of the same weights does."""

import json
from pathlib import Path
from typing import Any

import pytest

from modellink_rm import Scorer
from modellink_rm.config.export import ExportConfig, ImportConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from tests.distributed import Workers
from tests.marks import full
from tests.megatron_files import write_megatron_checkpoint
from tests.tiny_data import write_tokenizer
from tests.tiny_models import write_tiny_chatglm, write_tiny_llama

RECORDS: list[dict[str, Any]] = [
    {"prompt": "the cat", "responses": ["sings", "the dog sleeps and the moon shines"]},
    {"prompt": "a river and a stone", "responses": ["falls"]},
]
MAKERS = {"llama": write_tiny_llama, "chatglm": write_tiny_chatglm}


def import_on_rank(load: str, base_model: str, output: str, sizes: dict[str, Any]) -> None:
    from modellink_rm.conversion.import_model import import_directory, plan_import

    config = ImportConfig(load=load, base_model=base_model, output=output)
    import_directory(plan_import(config, TokenizerConfig(), ParallelConfig(**sizes)))


def scores_on_rank(load: str, prompt_type: str | None) -> list[Any]:
    options = {} if prompt_type is None else {"prompt_type": prompt_type}
    with Scorer.open(load, **options) as scorer:
        return list(scorer.score(RECORDS))


@pytest.mark.parametrize(
    ("family", "legacy_names", "tp", "pp", "read_tp"),
    [
        ("chatglm", True, 2, 2, 1),
        *(
            full(family, legacy_names, tp, pp, 3 - tp)
            for family in MAKERS
            for legacy_names in (False, True)
            for tp, pp in ((1, 1), (2, 1), (1, 2), (2, 2))
            if (family, legacy_names, tp, pp) != ("chatglm", True, 2, 2)
        ),
    ],
)
def test_scores_are_those_of_the_hugging_face_directory(
    family: str, legacy_names: bool, tp: int, pp: int, read_tp: int, workers: Workers, tmp_path: Path
) -> None:
    base, old, new = tmp_path / "base", tmp_path / "old", tmp_path / "new"
    model = MAKERS[family](base, value_head=True)
    write_tokenizer(base)
    write_megatron_checkpoint(old, model, base_model=base, legacy_names=legacy_names, tp=tp, pp=pp)
    sizes = {"tensor_model_parallel_size": read_tp}
    workers.run(import_on_rank, read_tp, str(old), str(base), str(new), sizes)
    # the checkpoint keeps the template of its run's --prompt-type
    (scores,) = workers.run(scores_on_rank, 1, str(new), None)
    (expected,) = workers.run(scores_on_rank, 1, str(base), "llama2")
    assert scores == expected


def export_on_rank(load: str, output: str) -> None:
    from modellink_rm.conversion.export import export_checkpoint
    from modellink_rm.conversion.plan import plan_export

    export_checkpoint(plan_export(ExportConfig(load=load, output=output), ParallelConfig()))


@pytest.mark.full
def test_models_of_the_chatglm3_script_are_exported_with_their_numbers(
    workers: Workers, tmp_path: Path
) -> None:
    base, old, new, out = (tmp_path / name for name in ("base", "old", "new", "out"))
    model = write_tiny_chatglm(base, value_head=True)
    write_tokenizer(base)
    flags = {"norm_epsilon": 1e-6, "no_post_layer_norm": True}
    write_megatron_checkpoint(old, model, base_model=base, tp=2, pp=2, arguments=flags)
    workers.run(import_on_rank, 1, str(old), str(base), str(new), {})
    workers.run(export_on_rank, 1, str(new), str(out))  # transformers checks the scores
    config = json.loads((out / "config.json").read_text())
    assert (config["layernorm_epsilon"], config["post_layer_norm"]) == (1e-6, False)
