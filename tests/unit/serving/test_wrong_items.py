"""Bodies of many wrong items: what is said of one costs no more than the first of them."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from modellink_rm.serving.routes.classify import ClassifyRequest
from modellink_rm.serving.routes.embeddings import EmbeddingRequest
from modellink_rm.serving.routes.openrlhf import Queries
from modellink_rm.serving.routes.score import Conversation, Conversations
from modellink_rm.serving.routes.slime import Sample

MANY = 1000


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Conversations, [{}] * MANY),
        (Conversations, dict.fromkeys((f"a{number}" for number in range(MANY)), 1)),
        (Conversation, {"messages": [1] * MANY}),
        (Conversation, {"prompt": [1] * MANY, "response": "b"}),
        (Conversation, {"prompt": "a", "responses": [1] * MANY}),
        (Conversation, {"chosen": [1] * MANY, "rejected": [1] * MANY}),
        (Conversation, {"prompt": "a", "completions": [1] * MANY}),
        (ClassifyRequest, {"input": [True] * MANY}),
        (ClassifyRequest, {"input_ids": [[True] * MANY] * MANY}),
        (ClassifyRequest, {"text": [1] * MANY}),
        (ClassifyRequest, {"messages": [1] * MANY}),
        (EmbeddingRequest, {"input": [None] * MANY}),
        (Queries, {"query": [1] * MANY}),
        (Sample, {"prompt": [1] * MANY, "response": "b"}),
    ],
)
def test_of_many_wrong_items_the_first_alone_is_described(kind: Any, body: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(kind).validate_python(body)
    assert refused.value.error_count() < 10  # one for each form that a field may have
