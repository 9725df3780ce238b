"""Export runs no code of a model's publisher, asks nobody whether to, and names none that is not there."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.conversion.padding import PadToken
from modellink_rm.conversion.publisher_code import can_be_opened, config_without_code
from modellink_rm.conversion.tokenizer_files import render_with_transformers
from tests.tiny_data import write_tokenizer

CONFIGS = Path(__file__).parents[2] / "fixtures" / "configs"


def published(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    assert "auto_map" in config
    return config


def test_nobody_is_asked_whether_code_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(prompt: str = "") -> str:
        raise AssertionError(prompt)

    monkeypatch.setattr(builtins, "input", asked)
    write_tokenizer(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    pad = PadToken(token="<unk>", index=0, is_new=False)
    with_pad = json.loads(files["tokenizer_config.json"]) | {"unk_token": "<unk>", "pad_token": "<unk>"}
    files["tokenizer_config.json"] = json.dumps(with_pad).encode()
    rendering = render_with_transformers(files, published("internlm2-7b-reward"), [], pad)
    assert rendering.different == ()


@pytest.mark.parametrize(
    ("name", "keeps"),
    [
        ("phi-3-mini-128k-instruct", False),
        ("deepseek-v2-lite", False),
        ("internlm2-7b-reward", True),
        ("chatglm3-6b", True),
    ],
)
def test_code_is_named_for_models_that_transformers_does_not_have(name: str, keeps: bool) -> None:
    config = published(name)
    written = config_without_code(config, config["model_type"])
    assert ("auto_map" in written) == keeps
    assert {**config, **written} == config


def test_kernels_of_the_hub_are_not_named() -> None:
    kernel = "kernels-community/flash-attn3"
    named = {
        name: kernel
        for field in ("attn_implementation", "experts_implementation")
        for name in (field, f"_{field}")
    }
    assert config_without_code({"model_type": "llama", **named}, "llama") == {"model_type": "llama"}


@pytest.mark.parametrize(
    ("family", "as_classifier", "expected"),
    [
        ("llama", True, True),
        ("llama", False, True),
        ("chatglm", False, True),
        ("internlm2", True, False),
        ("internlm2", False, False),
    ],
)
def test_last_check_opens_what_needs_no_code_of_publishers(
    family: str, as_classifier: bool, expected: bool
) -> None:
    assert can_be_opened(family, as_classifier=as_classifier) == expected
