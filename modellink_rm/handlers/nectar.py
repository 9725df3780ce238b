"""NectarResponsesHandler: seven answers to a prompt with their ranks."""

from dataclasses import dataclass

from modellink_rm.handlers.ranked import RankedResponsesHandler
from modellink_rm.handlers.registry import HANDLERS


@dataclass(frozen=True, kw_only=True)
class NectarResponsesHandler(RankedResponsesHandler):
    r"""prompt, and answers with their ranks, 1 for the best: berkeley-nest/Nectar, by its data set card.

    The prompt is "\n\nHuman: ...\n\nAssistant: " with one or more turns; every item of `answers` has the
    text `answer` and the number `rank`.
    """

    responses: str = "answers"
    response: str = "answer"
    ranks: str = ""
    ratings: str = ""
    rating: str = ""


HANDLERS.add(NectarResponsesHandler, NectarResponsesHandler.__name__)
