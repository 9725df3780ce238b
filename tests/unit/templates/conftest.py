from array import array

import pytest
import sentencepiece

from tests.unit.conftest import CONTROL_TOKENS, load_directory
from tests.unit.templates.forms import T


@pytest.fixture(scope="module")
def load(chatglm_directory, control_directory):
    """A template's tokenizer, and a function from pieces to ids that shares no code with it."""

    def load_for(name):
        directory = chatglm_directory if name.startswith("chatglm") else control_directory
        own = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
        names = CONTROL_TOKENS
        if directory == chatglm_directory:
            names = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
            names += ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
        special = {"<s>": 1, "</s>": 2} | {name: own.get_piece_size() + i for i, name in enumerate(names)}

        def ids(pieces):
            encoded = ([special[p.name]] if isinstance(p, T) else own.encode(p) for p in pieces)
            return array("i", [index for part in encoded for index in part])

        return load_directory(directory), ids

    return load_for
