"""A data set as text: its report, and decoded rows with marked control tokens."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modellink_rm.base.terminal import without_commands
from modellink_rm.dataset.example import Response
from modellink_rm.dataset.manifest import Manifest
from modellink_rm.dataset.row_files import RowFiles
from modellink_rm.tokenizers.tokenizer import Tokenizer

_BAR = 40


@dataclass(frozen=True, kw_only=True)
class Marks:
    """The marks around control tokens and around the scored token."""

    control: tuple[str, str]
    scored: tuple[str, str]


PLAIN = Marks(control=("[", "]"), scored=(">>", "<<"))
COLOURED = Marks(control=("\x1b[36m[", "]\x1b[0m"), scored=("\x1b[1;30;43m>>", "<<\x1b[0m"))


def report(manifest: Manifest) -> Iterator[str]:
    """Lines that say how a data set was made, what was dropped, what the checks found, and its lengths."""
    yield f"made by        modellink_rm {manifest.package_version}"
    yield f"handler        {manifest.handler}"
    yield f"template       {manifest.template}, fingerprint {manifest.template_fingerprint[:12]}"
    yield f"tokenizer      {manifest.tokenizer}, fingerprint {manifest.tokenizer_fingerprint[:12]}"
    yield f"records read   {manifest.num_read:,}"
    yield f"{'rated' if manifest.attributes else 'pairs'} kept     {manifest.num_kept:,}"
    if manifest.attributes:
        yield f"attributes     {', '.join(manifest.attributes)}"
    elif manifest.num_steps:
        yield f"steps          {manifest.num_steps:,} labelled, {manifest.num_wrong_steps:,} of them wrong"
        yield f"steps end in   {manifest.placeholder_token!r}"
    elif manifest.num_responses and list(manifest.num_responses) != ["2"]:
        numbers = (f"{number} each to {count:,} prompts" for number, count in manifest.num_responses.items())
        yield f"responses      {', '.join(numbers)}; {manifest.num_ties:,} prompts with a tie"
    yield f"tokens         {manifest.num_tokens:,}, longest row {manifest.longest:,}"
    for title, counts in (("dropped", manifest.dropped), ("kept, though", manifest.notes)):
        for what, count in counts.items():
            yield f"{title:15s}{count:,} {what}"
    if manifest.checks:
        found = ", ".join(f"{name} {count:,}" for name, count in manifest.checks.items())
        yield f"checks found   {found}"
        yield f"checks drop    {', '.join(manifest.drop) or 'nothing'}"
    if manifest.lengths:
        yield "tokens of         mean   shortest   median      p95      p99   longest"
    for name, of in manifest.lengths.items():
        quantiles = f"{of.shortest:11,}{of.median:9,}{of.p95:9,}{of.p99:9,}{of.longest:10,}"
        yield f"  {name:9s}{of.mean:11,.1f}{quantiles}"
    if "row" in manifest.lengths:
        yield "rows by tokens"
        bins = manifest.lengths["row"].histogram
        most = max([1, *bins.values()])
        for label, count in bins.items():
            yield f"  {label:>13s} {count:12,} {'#' * round(_BAR * count / most)}".rstrip()
    for name, entry in manifest.files.items():
        yield f"sha256 {entry.sha256[:16]} {entry.size:15,} bytes  *{name}"


def decoded_rows(
    data: RowFiles, rows: Sequence[int], tokenizer: Tokenizer | None, marks: Marks
) -> Iterator[str]:
    """The rows as lines: the prompt, then each answer, as text or, without a tokenizer, as ids.

    A control token is written as [</s> 2]; the last token of an answer, where the score is read, is
    written >>so<<. The headings show rank, margin, probability, ratings and source; of an answer in steps
    each step has a heading with its label.
    """
    for row in rows:
        source = data.source(row)
        ranks = data.ranks_of(row)
        margins, probabilities = data.margins(row), data.probabilities(row)
        ratings = data.ratings_of(row)
        for number, response in enumerate(data.responses(row)):
            ids, num_prompt = response.input_ids.tolist(), response.num_prompt_tokens
            if number == 0:
                of_source = f", source {without_commands(source)}" if source else ""
                yield f"--- row {row}: prompt, {num_prompt} tokens{of_source}"
                yield marked_text(ids[:num_prompt], tokenizer, marks, is_scored=False)
            if response.step_ends is not None:
                yield from _decoded_steps(row, response, tokenizer, marks)
                continue
            side = "rated" if data.attributes else "rejected" if number else "chosen"
            heading = f"--- row {row}: {side}, {len(ids) - num_prompt} tokens"
            if ratings:
                named = zip(data.attributes, ratings[number], strict=True)
                heading += "".join(f", {name} {value:g}" for name, value in named if not math.isnan(value))
            if len(ranks) > 2:
                heading += f", rank {ranks[number]} of {ranks[-1]}"
            if number and margins is not None:
                heading += f", margin {margins[number - 1]:g}"
            if number and probabilities is not None:
                heading += f", probability {1 - probabilities[number - 1]:g}"
            yield heading
            yield marked_text(ids[num_prompt:], tokenizer, marks, is_scored=True)


def _decoded_steps(row: int, response: Response, tokenizer: Tokenizer | None, marks: Marks) -> Iterator[str]:
    start = response.num_prompt_tokens
    for number, (end, label) in enumerate(
        zip(response.step_ends or (), response.step_labels, strict=True), start=1
    ):
        says = "without a label" if math.isnan(label) else f"label {label:g}"
        yield f"--- row {row}: step {number}, {end + 1 - start} tokens, {says}"
        yield marked_text(response.input_ids[start : end + 1].tolist(), tokenizer, marks, is_scored=True)
        start = end + 1


def marked_text(ids: list[int], tokenizer: Tokenizer | None, marks: Marks, *, is_scored: bool) -> str:
    """Ids as text, with marked control tokens, and the last token marked as the scored one."""
    body, last = (ids[:-1], ids[-1:]) if is_scored else (ids, [])
    text = _text(body, tokenizer, marks)
    if last:
        before, after = marks.scored
        scored = _text(last, tokenizer, marks)
        separator = " " if tokenizer is None and body else ""
        text += f"{separator}{before}{scored}{after}"
    return text


def _text(ids: list[int], tokenizer: Tokenizer | None, marks: Marks) -> str:
    if tokenizer is None:
        return " ".join(map(str, ids))
    names = {index: token for token, index in tokenizer.special_tokens.items()}
    parts: list[str] = []
    stretch: list[int] = []
    for index in ids:
        if index in names:
            parts += [_decoded(stretch, tokenizer), *_control(names[index], index, marks)]
            stretch = []
        else:
            stretch.append(index)
    return "".join([*parts, _decoded(stretch, tokenizer)])


def _decoded(ids: list[int], tokenizer: Tokenizer) -> str:
    return without_commands(tokenizer.decode(ids)) if ids else ""


def _control(name: str, index: int, marks: Marks) -> list[str]:
    before, after = marks.control
    return [before, f"{name} {index}", after]
