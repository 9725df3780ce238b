"""The base model's small files go along from checkpoint to checkpoint."""

import json
from pathlib import Path

from modellink_rm.checkpoint.base_model import base_model_files
from modellink_rm.checkpoint.layout import CheckpointInfo, RunInfo
from modellink_rm.checkpoint.source import ModelSource, open_source
from modellink_rm.model.spec import ModelSpec
from tests.tiny_data import write_tokenizer
from tests.tiny_models import write_tiny_llama


def test_config_and_tokenizer_of_the_base_model_are_kept_and_handed_on(tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_tiny_llama(base)
    write_tokenizer(base)
    (base / "training_args.bin").write_bytes(b"not of the model")
    source = open_source(str(base))
    files = base_model_files(source)
    assert sorted(files) == [
        "base_model/config.json",
        "base_model/generation_config.json",
        "base_model/tokenizer.model",
        "base_model/tokenizer_config.json",
    ]
    assert json.loads(files["base_model/config.json"]) == json.loads((base / "config.json").read_text())

    saved = tmp_path / "iter_0000001"
    for name, content in files.items():
        (saved / name).parent.mkdir(parents=True, exist_ok=True)
        (saved / name).write_bytes(content)
    assert source.hugging_face is not None
    spec = ModelSpec(shape=source.hugging_face.shape, padded_vocab_size=320)
    run = RunInfo(iteration=1, spec=spec, parallel_sizes=(1, 1, 1, 1), config={})
    checkpoint = CheckpointInfo(path=saved, run=run)
    assert base_model_files(ModelSource(checkpoint=checkpoint)) == files


def test_run_from_random_weights_has_none() -> None:
    assert base_model_files(ModelSource()) == {}
