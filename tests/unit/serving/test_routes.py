"""Every client of docs/serving.md gets what it reads: the requests are those that its own code sends."""

import base64
import gzip
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import Workers
from tests.marks import full
from tests.tiny_data import random_text
from tests.unit.serving.served import Answer, Asked, answers_of, scores_at_once

# Trained with the template llama2, and a sentencepiece tokenizer with BOS and EOS.
CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1" / "iter_0000002"

PROMPT, ANSWERS = "the cat", ["sings", "sleeps"]
MESSAGES = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": ANSWERS[0]}]
# As transformers' chat template of an export renders the conversation; BOS and EOS spelled.
RENDERED = ["<s>[INST] the cat [/INST] sings </s>", "<s>[INST] the cat [/INST] sleeps </s>"]
WITHOUT_BOS = [text.removeprefix("<s>") for text in RENDERED]
FOREIGN = "<unk>"  # a special token of the tokenizer, and none of the template's
SPELLED = f"cat </s> {FOREIGN}[INST]"

RECORDS: list[dict[str, Any]] = [
    {"prompt": PROMPT, "responses": ANSWERS},
    {"prompt": [{"role": "system", "content": "be brief"}, *MESSAGES[:1]], "response": ANSWERS[0]},
    {"prompt": SPELLED, "response": ANSWERS[0]},
    {"prompt": "the cat " * 400, "response": "sings " * 100},
]

ASKED = {
    # our own route
    "messages": Asked("/v1/score", {"messages": MESSAGES}),
    "response": Asked("/v1/score", {"prompt": PROMPT, "response": ANSWERS[0]}),
    "message response": Asked("/v1/score", {"prompt": MESSAGES[:1], "response": MESSAGES[1]}),
    "responses": Asked("/v1/score", {"prompt": PROMPT, "responses": ANSWERS}),
    "pair": Asked("/v1/score", {"prompt": PROMPT, "chosen": ANSWERS[1], "rejected": ANSWERS[0]}),
    "pair of conversations": Asked(
        "/v1/score", {"chosen": MESSAGES, "rejected": [MESSAGES[0], {**MESSAGES[1], "content": "sleeps"}]}
    ),
    "list": Asked("/v1/score", [{"messages": MESSAGES}, {"prompt": PROMPT, "responses": ANSWERS}]),
    "empty list": Asked("/v1/score", []),
    "system": Asked("/v1/score", {"prompt": PROMPT, "response": ANSWERS[0], "system": "be brief"}),
    "pair with a system": Asked(
        "/v1/score", {"prompt": PROMPT, "chosen": ANSWERS[0], "rejected": ANSWERS[1], "system": "be brief"}
    ),
    "spelled": Asked("/v1/score", {"prompt": SPELLED, "response": ANSWERS[0]}),
    "long": Asked("/v1/score", RECORDS[3]),
    # OpenRLHF 0.11.0, openrlhf/utils/agent.py
    "openrlhf": Asked("/get_reward", {"query": RENDERED, "prompts": ["x", "y"], "labels": [None, "7"]}),
    "openrlhf foreign": Asked("/get_reward", {"query": [RENDERED[0].replace("cat", FOREIGN)]}),
    "openrlhf none": Asked("/get_reward", {"query": []}),
    # verl, verl/experimental/reward_loop/reward_loop.py: now, and before vLLM 0.11.2
    "verl": Asked("/classify", {"model": "rm", "input": WITHOUT_BOS[0], "use_activation": False}),
    "verl old": Asked("/classify", {"model": "rm", "input": WITHOUT_BOS[0], "activation": False}),
    "verl sglang": Asked("/v1/embeddings", {"model": "rm", "input": WITHOUT_BOS[0]}),
    # vLLM 0.32.0's clients
    "vllm list": Asked("/classify", {"model": "rm", "input": RENDERED}),
    "vllm whole": Asked("/classify", {"input": RENDERED[0], "add_special_tokens": False}),
    "vllm bare": Asked("/classify", {"input": WITHOUT_BOS[0], "add_special_tokens": False}),
    "vllm messages": Asked("/classify", {"messages": MESSAGES}),
    "vllm pooling": Asked("/pooling", {"model": "rm", "input": WITHOUT_BOS}),
    "vllm last tokens": Asked(
        "/classify", {"input": "the cat " * 400 + RENDERED[0], "truncate_prompt_tokens": -1}
    ),
    "last four": Asked("/classify", {"input": RENDERED[0], "truncate_prompt_tokens": 4}),
    "embedded bare": Asked("/v1/embeddings", {"input": WITHOUT_BOS[0], "add_special_tokens": False}),
    "embedded last four": Asked("/v1/embeddings", {"input": RENDERED[0], "truncate_prompt_tokens": 4}),
    "embedded last none": Asked("/v1/embeddings", {"input": RENDERED[0], "truncate_prompt_tokens": 0}),
    "messages' last four": Asked("/classify", {"messages": MESSAGES, "truncate_prompt_tokens": 4}),
    "pooled messages' last four": Asked("/pooling", {"messages": MESSAGES, "truncate_prompt_tokens": 4}),
    "last none": Asked("/classify", {"input": RENDERED[0], "truncate_prompt_tokens": 0}),
    "more last tokens than fit": Asked(
        "/classify", {"input": "the cat " * 400 + RENDERED[0], "truncate_prompt_tokens": 97}
    ),
    # SGLang's documentation, and OpenAI's client, which asks for base64
    "sglang texts": Asked("/classify", {"model": "rm", "text": RENDERED}),
    "sglang text": Asked("/classify", {"text": RENDERED[0]}),
    "openai": Asked("/v1/embeddings", {"model": "rm", "input": RENDERED, "encoding_format": "base64"}),
    # slime, slime/rollout/rm_hub/__init__.py, with and without --apply-chat-template
    "slime": Asked(
        "/slime", {"prompt": "<s>[INST] the cat [/INST]", "response": " sings </s>", "label": "7"}
    ),
    "slime messages": Asked("/slime", {"prompt": MESSAGES[:1], "response": "sings</s>", "label": None}),
    "slime own": Asked("/v1/score", {"prompt": PROMPT, "response": ANSWERS[0]}),
    # what is refused
    "no json": Asked("/v1/score", b'{"prompt": '),
    "key twice": Asked("/v1/score", b'{"prompt": "a", "response": "b", "prompt": "c"}'),
    "key twice in a list": Asked("/v1/score", b'[{"prompt": "a", "response": {"role": "x", "role": "y"}}]'),
    "key twice in UTF-16": Asked("/get_reward", '{"query": "a", "query": "b"}'.encode("utf-16")),
    "key twice beside NaN": Asked("/slime", b'{"prompt": "a", "response": "b", "response": "c", "x": NaN}'),
    "no type": Asked(
        "/v1/score",
        b'{"prompt": "a", "response": "b"}',
        headers={"content-type": "application/x-www-form-urlencoded"},  # curl's, without a header
    ),
    "nested": Asked("/v1/score", b"[" * 15_000),
    "compressed": Asked("/v1/score", gzip.compress(b'{"prompt": "a", "response": "b"}')),
    "no form": Asked("/v1/score", {"prompt": PROMPT}),
    "two forms": Asked("/v1/score", {"prompt": PROMPT, "response": "a", "responses": ["b"]}),
    "typing error": Asked("/v1/score", {"prompt": PROMPT, "respones": "a"}),
    "no answer": Asked("/v1/score", {"messages": MESSAGES[:1]}),
    "bad item": Asked("/v1/score", [{"messages": MESSAGES}, {"prompt": [], "response": "a"}]),
    "bad role": Asked("/v1/score", {"messages": [{"role": "x", "content": "q"}, MESSAGES[1]]}),
    "too many": Asked("/v1/score", {"prompt": PROMPT, "responses": ["a"] * 65}),
    "too large": Asked("/v1/score", {"prompt": "a" * 20_000, "response": "b"}),
    "too long": Asked("/get_reward", {"query": ["the cat " * 400]}),
    "no tokens": Asked("/get_reward", {"query": [""]}),
    "no query": Asked("/get_reward", {"queries": ["a"]}),
    "no source": Asked("/classify", {"model": "rm"}),
    "two sources": Asked("/classify", {"input": "a", "text": "b"}),
    "unknown id": Asked("/classify", {"input_ids": [1, 5, 304]}),
    "negative id": Asked("/classify", {"input": [[1, -5]]}),
    "text for ids": Asked("/classify", {"input_ids": ["1", "5"]}),
    "truths for ids": Asked("/pooling", {"input": [True, True]}),
    "half a pair": Asked("/v1/score", b'{"prompt": "cat \\ud83d", "response": "a"}'),
    "half a pair in an answer": Asked("/v1/score", b'{"prompt": "cat", "responses": ["a", "\\udc00"]}'),
    "half a pair rendered": Asked("/get_reward", b'{"query": "<s>[INST] cat [/INST] \\ud83d</s>"}'),
    "no such path": Asked("/v2/score", {}),
    "wrong method": Asked("/v1/score", method="GET"),
    # operations
    "health": Asked("/health", method="GET"),
    "live": Asked("/health/live", method="GET"),
    "models": Asked("/v1/models", method="GET"),
    "openapi": Asked("/openapi.json", method="GET"),
    "metrics": Asked("/metrics", method="GET"),
}


@pytest.fixture(scope="module")
def served(workers: Workers) -> tuple[dict[str, Answer], list[Any]]:
    """The answers to all of the requests, and the Scorer's own scores of RECORDS."""
    ((answers, scores),) = workers.run(answers_of, 1, str(CHECKPOINT), list(ASKED.values()), RECORDS)
    return dict(zip(ASKED, answers, strict=True)), scores


@pytest.fixture(scope="module")
def answers(served: Any) -> dict[str, Any]:
    """The JSON of every answer with status 200."""
    return {name: answer.json for name, answer in served[0].items() if answer.status == 200}


def close(value: Any) -> Any:
    return pytest.approx(value, abs=1e-6)  # other batches, so other float32 rounding


def test_every_form_of_our_own_route_has_the_scorers_scores(answers: dict[str, Any], served: Any) -> None:
    (first, second), with_system, spelled, _ = served[1]
    for name in ("messages", "response", "message response", "slime own"):
        assert answers[name] == {"score": close(first)}
    assert answers["responses"] == {"scores": close([first, second])}
    assert answers["pair"] == {"scores": close([second, first])}
    assert answers["pair of conversations"] == {"scores": close([first, second])}
    assert answers["list"] == [{"score": close(first)}, {"scores": close([first, second])}]
    assert answers["empty list"] == []
    assert answers["system"] == {"score": close(with_system)}
    assert answers["pair with a system"]["scores"][0] == close(with_system)
    assert abs(with_system - first) > 1e-4
    assert answers["spelled"] == {"score": close(spelled)}


def test_a_long_conversation_is_truncated_as_in_training_and_says_so(
    answers: dict[str, Any], served: Any
) -> None:
    assert answers["long"] == {"score": close(served[1][3]), "truncated": True}


def test_openrlhf_reads_rewards_scores_and_logs(answers: dict[str, Any], served: Any) -> None:
    found, scores = answers["openrlhf"], served[1][0]
    assert found.get("rewards") == close(scores)
    assert found.get("scores") == close(scores)
    assert [value for values in (found.get("extra_logs") or {}).values() for value in values] == []
    assert answers["openrlhf none"]["rewards"] == []


def test_a_special_token_that_is_not_the_templates_is_text_on_routes_of_rendered_texts(
    answers: dict[str, Any], workers: Workers
) -> None:
    ((expected,),) = workers.run(foreign_as_text, 1)
    assert answers["openrlhf foreign"]["rewards"][0] == close(expected)


def foreign_as_text() -> list[Any]:
    from modellink_rm import Scorer

    with Scorer.open(CHECKPOINT) as scorer:
        scores = scorer.score([{"prompt": f"the {FOREIGN}", "response": ANSWERS[0]}])
    return scores


@pytest.mark.parametrize("name", ["verl", "verl old"])
def test_verl_with_vllm_reads_the_last_probability(name: str, answers: dict[str, Any], served: Any) -> None:
    assert answers[name]["data"][-1]["probs"][-1] == close(served[1][0][0])


def test_verl_with_sglang_reads_the_last_embedding(answers: dict[str, Any], served: Any) -> None:
    assert answers["verl sglang"]["data"][-1]["embedding"][-1] == close(served[1][0][0])


def test_vllms_clients_read_classes_and_pooled_data(answers: dict[str, Any], served: Any) -> None:
    scores = served[1][0]
    found = answers["vllm list"]
    assert [one["probs"] for one in found["data"]] == [close([score]) for score in scores]
    assert [(one["index"], one["label"], one["num_classes"]) for one in found["data"]] == [
        (0, "LABEL_0", 1),
        (1, "LABEL_0", 1),
    ]
    assert (found["object"], found["model"]) == ("list", "tiny")
    assert found["id"].startswith("classify-")
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 10
    pooled = answers["vllm pooling"]
    assert [(one["index"], one["object"], one["data"]) for one in pooled["data"]] == [
        (0, "pooling", close([scores[0]])),
        (1, "pooling", close([scores[1]])),
    ]
    assert answers["vllm messages"]["data"][0]["probs"] == close([scores[0]])


def test_a_bos_is_added_where_it_lacks_and_never_twice(answers: dict[str, Any], served: Any) -> None:
    score = served[1][0][0]
    assert answers["vllm list"]["data"][0]["probs"][0] == close(score)
    assert answers["vllm whole"]["data"][0]["probs"][0] == close(score)
    assert abs(answers["vllm bare"]["data"][0]["probs"][0] - score) > 1e-4


def test_an_embedding_is_read_with_the_bos_and_the_tokens_that_a_class_is(answers: dict[str, Any]) -> None:
    for name, same in (("embedded bare", "vllm bare"), ("embedded last four", "last four")):
        assert answers[name]["data"][0]["embedding"] == close(answers[same]["data"][0]["probs"])
        assert answers[name]["usage"] == answers[same]["usage"]


def test_tokens_at_the_end_are_kept_where_vllms_client_asks_for_that(answers: dict[str, Any]) -> None:
    assert answers["vllm last tokens"]["usage"]["prompt_tokens"] == 96
    assert answers["last four"]["usage"]["prompt_tokens"] == 4


def test_sglangs_own_classify_answers_with_embeddings(answers: dict[str, Any], served: Any) -> None:
    scores = served[1][0]
    assert [one["embedding"][0] for one in answers["sglang texts"]] == close(scores)
    assert answers["sglang text"]["embedding"][0] == close(scores[0])
    assert answers["sglang text"]["meta_info"]["prompt_tokens"] > 5


def test_openais_client_reads_little_endian_floats_in_base64(answers: dict[str, Any], served: Any) -> None:
    found = [struct.unpack("<f", base64.b64decode(one["embedding"])) for one in answers["openai"]["data"]]
    assert [one[0] for one in found] == close(served[1][0])


def test_slime_reads_the_answer_itself(answers: dict[str, Any], served: Any) -> None:
    assert answers["slime"] == close(served[1][0][0])
    assert answers["slime messages"] == close(served[1][0][0])


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("no json", 400, "the body is not JSON, at character 11"),
        ("nested", 400, "the body is not JSON in UTF-8, without compression and deep nesting"),
        ("compressed", 400, "the body is not JSON in UTF-8, without compression and deep nesting"),
        ("key twice", 400, "an object of the body has the key 'prompt' twice"),
        ("key twice in a list", 400, "an object of the body has the key 'role' twice"),
        ("key twice in UTF-16", 400, "an object of the body has the key 'query' twice"),
        ("key twice beside NaN", 400, "an object of the body has the key 'response' twice"),
        ("last none", 422, "truncate_prompt_tokens: must be at least 1, or -1 for all that --seq-length"),
        ("embedded last none", 422, "truncate_prompt_tokens: must be at least 1, or -1 for all that"),
        ("messages' last four", 422, "truncate_prompt_tokens is of rendered texts and ids: messages are"),
        ("pooled messages' last four", 422, "truncate_prompt_tokens is of rendered texts and ids"),
        ("more last tokens than fit", 422, "97 tokens are more than --seq-length 96"),
        ("no type", 415, "send the header Content-Type: application/json"),
        ("no form", 422, "give messages; prompt and response; prompt and responses"),
        ("two forms", 422, "got prompt, response, responses"),
        ("typing error", 422, "respones: unknown field; /docs lists those of each route"),
        ("no answer", 422, "messages must end with the answer, a message of the assistant"),
        ("bad item", 422, "conversation 1: "),
        ("bad role", 422, "message 1 of field 'prompt' has no role among"),
        ("too many", 413, "65 responses in one request are more than --max-waiting 64"),
        ("too large", 413, "the body is larger than --max-body-bytes 20000"),
        ("too long", 422, "tokens are more than --seq-length 96"),
        ("no tokens", 422, "no tokens"),
        ("no query", 422, "query: Field required"),
        ("no source", 422, "give one of input, messages, text, input_ids; got none of them"),
        ("two sources", 422, "got input and text"),
        ("unknown id", 422, "token ids must lie between 0 and 303"),
        ("negative id", 422, "token ids must lie between 0 and 303"),
        ("text for ids", 422, "input_ids.list[int].0: Input should be a valid integer"),
        ("truths for ids", 422, "Input should be a valid"),
        ("half a pair", 422, "half of a surrogate pair, at character 5 of a text"),
        ("half a pair in an answer", 422, "half of a surrogate pair, at character 1 of a text"),
        ("half a pair rendered", 422, "half of a surrogate pair, at character 23 of a text"),
        ("no such path", 404, "is no route; /docs lists them"),
        ("wrong method", 405, "Method Not Allowed"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(
    name: str, status: int, message: str, served: Any
) -> None:
    answer = served[0][name]
    assert answer.status == status
    assert message in answer.json["error"]["message"]
    assert "\n" not in answer.json["error"]["message"]


def test_operations_have_their_pages(answers: dict[str, Any]) -> None:
    assert answers["health"] == {"ready": True}
    assert answers["live"] == {"live": True}
    assert [one["id"] for one in answers["models"]["data"]] == ["tiny"]
    paths = {"/v1/score", "/get_reward", "/classify", "/pooling", "/v1/embeddings", "/slime"}
    assert set(answers["openapi"]["paths"]) >= paths
    assert "modellink_rm_responses_scored_total" in answers["metrics"]
    assert 'requests_total{route="/get_reward",status="200"} 3.0' in answers["metrics"]


@pytest.mark.parametrize(
    ("options", "tolerance"),
    # float32 rounds by the batch; bfloat16 has 8 bits, and scores here are below 1 (docs/serving.md).
    [({}, 1e-6), full({"bf16": True}, 0.01)],
    ids=["float32", "bfloat16"],
)
def test_scores_do_not_depend_on_what_is_asked_at_the_same_time(
    options: dict[str, Any], tolerance: float, workers: Workers
) -> None:
    generator = random.Random(3)
    prompts = [random_text(generator, 3, 30) for _ in range(5)]
    records = [
        {
            "prompt": generator.choice(prompts),
            "responses": [random_text(generator, 1, 20) for _ in range(size)],
        }
        for size in (1, 2, 4) * 7
    ]
    ((found, alone, num_batches),) = workers.run(at_once, 1, str(CHECKPOINT), records, options)
    assert num_batches < len(records)
    for scores, expected in zip(found, alone, strict=True):
        scores = scores if isinstance(expected, list) else scores[0]
        assert scores == pytest.approx(expected, abs=tolerance)


def at_once(load: str, records: list[Any], options: dict[str, Any]) -> Any:
    return scores_at_once(load, records, **options)
