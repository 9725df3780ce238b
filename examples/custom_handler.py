"""A handler of your own: three answers with stars, of which the best and the worst make the pair.

    python preprocess_data.py --handler-name examples/custom_handler.py:StarsHandler \\
        --map-keys '{"question": "q"}' --input stars.jsonl ...

The fields of the dataclass are the keys of --map-keys. An installed package can offer its handler by
name: see docs/extending.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modellink_rm.conversation import Message, Pair
from modellink_rm.records import RecordError


@dataclass(frozen=True, kw_only=True)
class StarsHandler:
    question: str = "question"
    answers: str = "answers"

    def __call__(self, record: Mapping[str, Any]) -> Pair:
        question, answers = record.get(self.question), record.get(self.answers)
        if not isinstance(question, str) or not isinstance(answers, list):
            # A record that cannot be used: counted by this reason, and the others go on.
            raise RecordError(f"{self.question} must be a text and {self.answers} a list")
        try:
            ranked = sorted(answers, key=lambda answer: answer["stars"])
            worst, best = ranked[0], ranked[-1]
            margin = best["stars"] - worst["stars"]
            texts = [best["text"], worst["text"]]
        except (KeyError, TypeError, IndexError):
            raise RecordError("an answer needs text and stars") from None
        if margin == 0:
            raise RecordError("all answers have the same stars")
        chosen, rejected = (Message("assistant", str(text)) for text in texts)
        return Pair(None, "", (Message("user", question),), chosen, rejected, margin=margin)
