"""The page of a study: answers of several policies, scored by one reward model."""

from collections.abc import Iterator, Sequence

from modellink_rm.metrics.bootstrap import Estimate
from modellink_rm.report import html
from modellink_rm.report.answer_charts import distributions, dots_by_length, means_by_length
from modellink_rm.report.answer_sets import (
    AnswerSet,
    AnswerSummary,
    PolicyComparison,
    Study,
    extreme_prompts,
)
from modellink_rm.report.charts import Chart
from modellink_rm.report.page import Page, file_name, style

NUM_EXAMPLES = 4  # prompts shown with their answers, of each kind


def make_study_page(study: Study) -> tuple[str, list[Chart]]:
    """The page as HTML, and its charts in order."""
    page = Page()
    policies = list(dict.fromkeys(one.policy for one in study.sets))
    title = f"Answers: {', '.join(policies)}"
    body = [
        f"<h1>{html.escaped(title)}</h1>",
        '<p class="quiet">Answers of policies to the same prompts, scored by one reward model. A policy wins '
        "where its answer scores above the other's to the same prompt; a tie counts half. Intervals are "
        "95%, over prompts.</p>",
        '<nav><a href="#compared">Compared</a><a href="#policies">Policies</a>'
        '<a href="#scores">Scores</a><a href="#examples">Examples</a></nav>',
        html.grid("tiles", _tiles(study)),
        '<h2 id="compared">Better, or longer?</h2>',
        _comparison_table(study),
        '<h2 id="policies">Policies</h2>',
        _summary_table(study),
        '<h2 id="scores">Distributions of scores, and length</h2>',
        *_charts(page, study),
        '<h2 id="examples">Largest gains and losses</h2>',
        *_examples(study),
    ]
    return html.document(title=title, style=style(), body=body), page.charts


def _tiles(study: Study) -> Iterator[str]:
    """The numbers that one looks for first."""
    for one in study.comparisons:
        what = f"{one.policy} against {one.other}, {one.name}"
        yield html.tile(f"{one.win_rate.value:.3f}", f"win rate of {what}")
        if one.at_equal_length.difference is not None:
            yield html.tile(f"{one.at_equal_length.difference.value:+.3f}", f"score at equal length, {what}")


def _comparison_table(study: Study) -> str:
    head = ["set", "policy", "against", "prompts", "win rate", "95% interval", "score", "95% interval"]
    head += ["at equal length", "95% interval", "comparable", "win rate, similar length", "95% interval"]
    head += ["is longer"]
    note = (
        '<p class="quiet">Score: mean difference. At equal length: mean difference within ten bins of '
        "length, weighted by the policy's own answers in them; comparable is the share of these in bins that "
        "have answers of both. Similar length: pairs whose lengths differ by at most a tenth. Is longer: how "
        "often the policy's answer is the longer one.</p>"
    )
    return html.table(head, map(_comparison_cells, study.comparisons), num_text=3) + note


def _comparison_cells(one: PolicyComparison) -> list[object]:
    return [
        one.name,
        one.policy,
        one.other,
        f"{one.num_prompts:,}",
        *_estimate(one.win_rate, ".3f"),
        *_estimate(one.score, "+.3f"),
        *_estimate(one.at_equal_length.difference, "+.3f"),
        f"{one.at_equal_length.covered:.3f}",
        *_estimate(one.similar_win_rate, ".3f"),
        f"{one.longer:.3f}",
    ]


def _summary_table(study: Study) -> str:
    head = ["set", "policy", "prompts", "answers", "score", "95% interval", "deviation"]
    head += [f"length ({study.unit})", "ended", "below range", "above range", "length explains"]
    note = (
        '<p class="quiet">Ended: the share of answers that the policy ended itself. Below and above range: '
        "the share of answers whose score lies outside "
        + (
            "what the reward model's training data score"
            if study.seen is None
            else f"{study.seen[0]:.3f} to {study.seen[1]:.3f}, the scores of its training data"
        )
        + ". Length explains: the share of the variance of scores that a line over lengths explains.</p>"
    )
    return html.table(head, map(_summary_cells, study.summaries), num_text=2) + note


def _summary_cells(one: AnswerSummary) -> list[object]:
    return [
        one.name,
        one.policy,
        f"{one.num_prompts:,}",
        f"{one.num_answers:,}",
        *_estimate(one.score, ".3f"),
        f"{one.deviation:.3f}",
        f"{one.length:.1f}",
        *(_share(value) for value in (one.ended, one.below, one.above, one.explained_by_length)),
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _estimate(one: Estimate | None, form: str) -> list[str]:
    """A value and its interval as two cells."""
    return ["-", "-"] if one is None else [f"{one.value:{form}}", f"{one.low:{form}} to {one.high:{form}}"]


def _charts(page: Page, study: Study) -> Iterator[str]:
    low = min(float(one.numbers.scores.min()) for one in study.sets)
    high = max(float(one.numbers.scores.max()) for one in study.sets)
    if study.seen is not None:
        low, high = min(low, study.seen[0]), max(high, study.seen[1])
    for name in study.names:
        sets, file = study.of_set(name), file_name(name)
        charts = [
            distributions(f"{file}_scores", "Scores", sets, low=low, high=high, seen=study.seen),
            dots_by_length(f"{file}_lengths", "Score against length", sets, unit=study.unit),
            means_by_length(f"{file}_equal_length", "Scores at equal length", sets, unit=study.unit),
        ]
        yield f"<h3>{html.escaped(name)}</h3>"
        yield html.grid("charts", [page.picture(chart) for chart in charts])


def _examples(study: Study) -> Iterator[str]:
    for name in study.names:
        base, *others = study.of_set(name)
        for one in others:
            worst, best = extreme_prompts(one, base, NUM_EXAMPLES)
            for kind, places in (("gains", best), ("losses", worst)):
                if places:
                    yield f"<h3>{html.escaped(f'{name}: largest {kind} of {one.policy}')}</h3>"
                    yield from (_example([base, one], place) for place in places)


def _example(sets: Sequence[AnswerSet], place: int) -> str:
    prompt = sets[0].prompts[place]
    content = f'<span class="quiet">prompt</span><pre dir="auto">{html.escaped(prompt)}</pre>'
    means = []
    for one, kind in zip(sets, ("rejected", "chosen"), strict=True):
        inside = [index for index, number in enumerate(one.numbers.prompts) if number == place]
        means.append(float(one.numbers.scores[inside].mean()))
        for index in inside:
            label = f"{one.policy}, score {one.numbers.scores[index]:.3f}"
            content += f'<span class="quiet">{html.escaped(label)}</span>'
            content += f'<pre class="{kind}" dir="auto">{html.escaped(one.texts[index])}</pre>'
    return html.details(f"{means[1] - means[0]:+.3f}: {' '.join(prompt.split())[-90:]}", content)
