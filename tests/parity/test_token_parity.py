"""Token ids after truncation against the ids that other trainers were recorded with."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.dataset.example import Response
from modellink_rm.dataset.truncation import truncate
from modellink_rm.handlers import make_handler
from modellink_rm.records import Record, read_records
from modellink_rm.templates.encode import num_closing_tokens, tokenize_responses
from modellink_rm.templates.table import TEMPLATES
from modellink_rm.tokenizers.load import load_tokenizer

SHARED = Path(__file__).parents[2].parent / "shared"
DATA = SHARED / "data" / "dpo_en_demo.json"
TOKENIZER = SHARED / "data" / "llama2_tokenizer.model"
RECORDED = SHARED / "reference" / "ids_en_llama2_cut1024.json"

pytestmark = pytest.mark.skipif(
    not all(path.is_file() for path in (DATA, TOKENIZER, RECORDED)),
    reason="the recorded ids are not beside the project (../shared)",
)


def test_ids_of_the_demo_data_equal_the_recorded_hashes() -> None:
    recorded = json.loads(RECORDED.read_text())["sha256_16"]
    tokenizer = load_tokenizer(TokenizerConfig(tokenizer_model=str(TOKENIZER)))
    handler = make_handler("SharegptStylePairwiseHandler", None)
    template = TEMPLATES["llama2"]
    hashes: dict[str, list[str]] = {"chosen": [], "rejected": []}
    for record, _ in zip(read_records(str(DATA)), range(100), strict=False):
        assert isinstance(record, Record)
        tokens = tokenize_responses(handler(record.fields), template, tokenizer)
        responses = tuple(
            Response(np.array(tokens.prompt_ids + ids, np.int32), len(tokens.prompt_ids))
            for ids in (tokens.response_ids[0], tokens.response_ids[1])
        )
        kept, _ = truncate(responses, 1024, "right", num_closing_tokens(template, tokenizer))
        for side, response in zip(hashes, kept, strict=True):
            text = json.dumps(response.input_ids.tolist())
            hashes[side].append(hashlib.sha256(text.encode()).hexdigest()[:16])
    assert hashes == recorded
