"""The score of a model of several attributes, and the weights that make it."""

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message, Pair, Rated, Unranked
from modellink_rm.dataset.example import Example, Response
from modellink_rm.inference.attributes import Attributes, weighted_attributes
from modellink_rm.inference.reader import RecordReader
from modellink_rm.inference.record_tokenizer import ScoringInput
from modellink_rm.inference.result import NOT_FINITE, NotScored, Scored
from modellink_rm.inference.rows import KeptFields, output_row
from modellink_rm.inference.scorer import Scorer

NAMES = ("helpfulness", "correctness", "verbosity")


def test_score_is_the_weighted_sum_of_the_attributes() -> None:
    found = weighted_attributes(NAMES, "helpfulness=0.65, verbosity=-0.4", load="x")
    assert found.score((3.0, 9.0, 2.0)) == pytest.approx(0.65 * 3 - 0.4 * 2)
    assert str(found) == "helpfulness=0.65,verbosity=-0.4"
    assert found.named((3.0, 9.0, 2.0)) == {"helpfulness": 3.0, "correctness": 9.0, "verbosity": 2.0}


def test_no_sum_of_infinities_is_a_score() -> None:
    found = weighted_attributes(NAMES, "helpfulness=1,correctness=1,verbosity=1e308", load="x")
    assert math.isnan(found.score((math.inf, -math.inf, 1.0)))
    assert not math.isfinite(found.score((1.0, 1.0, 1e30)))
    assert math.isnan(found.score((1e308, 1e308, 1.0)))


def test_first_attribute_is_the_score_by_default() -> None:
    assert weighted_attributes(NAMES, None, load="x").score((3.0, 9.0, 2.0)) == 3.0


def test_score_of_a_model_without_attributes_is_its_output() -> None:
    assert weighted_attributes((), None, load="x") == Attributes()
    assert Attributes().score((0.1,)) == 0.1


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        ((), "helpfulness=1", "--attribute-weights: x gives one score"),
        (NAMES, "helpfulnes=1", "attribute of --attribute-weights.*helpfulness"),
        (NAMES, "helpfulness=much", "takes NAME=NUMBER.*'helpfulness=much'"),
        (NAMES, "helpfulness", "takes NAME=NUMBER"),
        (NAMES, "helpfulness=nan", "takes NAME=NUMBER"),
        (NAMES, "helpfulness=0", "every weight is 0"),
        (NAMES, "helpfulness=1,helpfulness=2", "helpfulness is there twice"),
        (("a", "a"), None, "x has two attributes of one name: a, a"),
    ],
)
def test_weights_that_make_no_score_are_refused(names: tuple[str, ...], given: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        weighted_attributes(names, given, load="x")


def message(text: str) -> Message:
    return Message("assistant", text)


PROMPT = (Message("user", "q"),)


def test_row_has_every_attribute_beside_the_score() -> None:
    one = Unranked(None, "", PROMPT, (message("a"),))
    row = output_row({"prompt": "q"}, Scored(one, (1.5,), False, ({"x": 1.5, "y": 2.0},)), KeptFields())
    assert row == {"prompt": "q", "score": 1.5, "attribute_scores": {"x": 1.5, "y": 2.0}}


def test_row_of_a_pair_has_the_attributes_of_both_the_preferred_first() -> None:
    pair = Pair(None, "", PROMPT, message("a"), message("b"))
    row = output_row({}, Scored(pair, (2.0, 1.0), False, ({"x": 2.0}, {"x": 1.0})), KeptFields())
    assert row["attribute_scores"] == [{"x": 2.0}, {"x": 1.0}]


def test_model_of_ratings_reads_rated_responses_lists_and_pairs() -> None:
    reader = RecordReader(trained_handler="RatedResponseHandler")
    assert isinstance(reader({"prompt": "q", "response": "a", "helpfulness": 3}), Rated)
    assert isinstance(reader({"prompt": "q", "response": "a"}), Rated)
    assert isinstance(reader({"prompt": "q", "responses": ["a", "b"]}), Unranked)
    assert isinstance(reader({"prompt": "q", "chosen": "a", "rejected": "b"}), Pair)


def test_an_attribute_that_is_not_finite_is_no_row_though_it_weighs_nothing() -> None:
    attributes = Attributes(names=("x", "y"), weights=(1.0, 0.0))
    spec = SimpleNamespace(scores_steps=False)
    scorer = object.__new__(Scorer)
    scorer.plan = cast(Any, SimpleNamespace(attributes=attributes, model=SimpleNamespace(spec=spec)))
    outputs = [((0.5, 2.0),), ((0.5, math.nan),)]
    scorer.model = cast(
        Any,
        SimpleNamespace(
            outputs_of=lambda examples: outputs, scores_of=lambda of: tuple(map(attributes.score, of))
        ),
    )
    one = Unranked(None, "", PROMPT, (message("a"),))
    example = Example(0, (Response(np.array([1, 2], dtype=np.int32), 1),))
    found, refused = scorer.results_of([ScoringInput(f"in.jsonl:{line}", one, example) for line in (1, 2)])
    assert found == Scored(one, (0.5,), False, ({"x": 0.5, "y": 2.0},))
    assert refused == NotScored(NOT_FINITE, "in.jsonl:2: a score is not finite")
