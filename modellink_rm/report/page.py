"""The page of one run, or of several side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modellink_rm.report import charts, html
from modellink_rm.report.charts import Chart, Palette
from modellink_rm.report.curves import Curve, column, held_out_names
from modellink_rm.report.html import Html
from modellink_rm.report.kinds import kind_of
from modellink_rm.report.pictures import DARK, LIGHT, svg_of
from modellink_rm.report.run_files import TRAINING, RunFiles
from modellink_rm.report.scored_sets import (
    ScoredPairs,
    ScoredSet,
    SetSummary,
    accuracy_of,
    by_source,
    extremes,
    scored_sets,
    summary_of,
)

NUM_EXAMPLES = 5  # pairs shown with their texts, of each kind
_LINES = ("-", "--", ":", "-.")
# Columns of metrics.jsonl, over training and held-out sets.
_LEARNT = (
    ("loss", "Loss", None),
    ("accuracy", "Accuracy", 0.5),
    ("margin", "Mean margin", 0.0),
    ("entropy", "Entropy at answer tokens", None),  # of policies, in evaluations alone
    ("log_ratio", "Log-ratio to the reference, a token", 0.0),
)
# ... and of the steps alone.
_STEPS = (
    ("learning_rate", "Learning rate", False),
    ("grad_norm", "Gradient norm", True),
    ("tokens_per_second", "Tokens per second", False),
)


@dataclass(frozen=True, kw_only=True)
class NamedRun:
    """A run with the name that the page gives it, and its scores by set."""

    name: str
    files: RunFiles
    sets: tuple[ScoredSet, ...]


@dataclass
class Page:
    """A page while it is made.

    Attributes:
        charts: so far, in order.
    """

    charts: list[Chart] = field(default_factory=list)

    def picture(self, chart: Chart) -> str:
        """The chart as an element; its name differs from those of the charts before."""
        names, number = {one.name for one in self.charts}, 2
        name = chart.name
        while name in names:
            name, number = f"{chart.name}_{number}", number + 1
        self.charts.append(replace(chart, name=name))
        return html.figure(chart.title, svg_of(chart, number=len(self.charts)))


def make_page(runs: Sequence[RunFiles]) -> tuple[str, list[Chart]]:
    """The page as HTML, and its charts in order."""
    named = [
        NamedRun(name=name, files=files, sets=tuple(_sets_of_pairs(files)))
        for name, files in zip(_names(runs), runs, strict=True)
    ]
    page = Page()
    kind, meaning = kind_of(runs)
    title = f"{kind}: {', '.join(run.name for run in named)}"
    body = [
        f"<h1>{html.escaped(title)}</h1>",
        f'<p class="quiet">{meaning}</p>',
        '<nav><a href="#curves">Training</a><a href="#sets">Held-out sets</a>'
        '<a href="#scores">Scores</a><a href="#pairs">Pairs</a><a href="#about">The run</a></nav>',
        *(_tiles(run, has_name=len(named) > 1) for run in named),
        '<h2 id="curves">Training</h2>',
        html.grid("charts", [page.picture(chart) for chart in training_charts(named)]),
        '<h2 id="sets">Held-out sets</h2>',
        _sets_table(named),
        *_source_tables(named),
        '<h2 id="scores">Scores before and after training</h2>',
        *_score_charts(page, named),
        '<h2 id="pairs">Worst and best pairs</h2>',
        *_pairs(named),
        '<h2 id="about">What the run was</h2>',
        *(_about(run) for run in named),
    ]
    return html.document(title=title, style=style(), body=body), page.charts


def _sets_of_pairs(files: RunFiles) -> list[ScoredSet]:
    """The sets with scores of pairs: none of a run on responses in steps, or on ratings."""
    return [one for one in scored_sets(files) if one.before is not None or one.after is not None]


def _names(runs: Sequence[RunFiles]) -> list[str]:
    """The directories' names, numbered where two are equal."""
    names = [run.name for run in runs]
    return [
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def style() -> str:
    """The style sheet of a page, in the light and in the dark colours."""
    more = {
        "light": "--page:#f6f7f9;--card:#fff;--edge:#dfe3e8;--quiet:#5b6570;",
        "dark": "--page:#14181d;--card:#1c2229;--edge:#333c47;--quiet:#9aa6b4;",
    }
    style = html.STYLE.replace("LIGHT", more["light"] + _variables(LIGHT))
    return style.replace("DARK", more["dark"] + _variables(DARK))


def _variables(palette: Palette) -> str:
    series = "".join(f"--series-{number}:{colour};" for number, colour in enumerate(palette.series, start=1))
    return (
        f"--ink:{palette.ink};--grid:{palette.grid};--chosen:{palette.chosen};"
        f"--rejected:{palette.rejected};{series}"
    )


def _tiles(run: NamedRun, *, has_name: bool) -> str:
    """The numbers that one looks for first."""
    rows, tiles = run.files.rows, []
    last = rows[-1]["iteration"]
    total = run.files.about.get("train_iters", last)
    for name in held_out_names(rows)[:2]:
        accuracy = column(rows, f"{name}/accuracy")[1]
        if len(accuracy):
            tiles.append(html.tile(f"{accuracy[0]:.3f} → {accuracy[-1]:.3f}", f"accuracy on {name}"))
    best = run.files.best
    if best is not None:
        tiles.append(html.tile(f"{best.value:.4f}", f"best {best.metric}, at step {best.iteration:,}"))
    losses, speed = column(rows, "loss")[1], column(rows, "tokens_per_second")[1]
    tiles += [html.tile(f"{losses[-1]:.4f}", "training loss, last step")] if len(losses) else []
    tiles.append(html.tile(f"{last:,} of {total:,}", "steps"))
    epochs = column(rows, "epoch")[1]
    tiles += [html.tile(f"{epochs[-1]:.2f}", "epochs")] if len(epochs) else []
    tiles += [html.tile(f"{sorted(speed)[len(speed) // 2]:,.0f}", "tokens/s, median")] if len(speed) else []
    heading = f"<h3>{html.escaped(run.name)}</h3>" if has_name else ""
    return heading + html.grid("tiles", tiles)


def training_charts(runs: Sequence[NamedRun]) -> Iterator[Chart]:
    """The curves over steps; runs differ by colour and sets by line, or one run's sets by colour."""
    for metric, title, level in _LEARNT:
        curves = [curve for place, run in enumerate(runs) for curve in _curves(run, place, metric, len(runs))]
        if curves:
            yield charts.lines(f"training_{metric}", title, curves, level=level)
    for metric, title, is_log in _STEPS:
        curves = []
        for place, run in enumerate(runs):
            x, y = column(run.files.rows, metric)
            label = run.name if len(runs) > 1 else ""
            curves += [Curve(label=label, iterations=x, values=y, colour=place)] if len(x) else []
        if curves:
            yield charts.lines(f"training_{metric}", title, curves, is_log=is_log)


def _curves(run: NamedRun, place: int, metric: str, num_runs: int) -> Iterator[Curve]:
    """A metric of the steps, faint, and of every held-out set."""
    x, y = column(run.files.rows, metric)
    is_alone = num_runs == 1
    if len(x):
        label = "training" if is_alone else f"{run.name}: training"
        yield Curve(label=label, iterations=x, values=y, colour=0 if is_alone else place, is_faint=True)
    for number, name in enumerate(held_out_names(run.files.rows)):
        x, y = column(run.files.rows, f"{name}/{metric}")
        if not len(x):
            continue
        yield Curve(
            label=name if is_alone else f"{run.name}: {name}",
            iterations=x,
            values=y,
            colour=number + 1 if is_alone else place,
            line="-" if is_alone else _LINES[number % len(_LINES)],
        )


def _sets_table(runs: Sequence[NamedRun]) -> str:
    """Metrics of the written scores, before and after."""
    head = ["run", "set", "when", "pairs", "accuracy", "95% interval", "longer (tokens)", "loss", "ECE"]
    head += ["AUC", "chosen", "rejected"]
    rows = [
        [run.name, one.name, when, *_summary_cells(summary_of(pairs))]
        for run in runs
        for one in run.sets
        for when, pairs in (("before", one.before), (f"step {one.iteration}", one.after))
        if pairs is not None
    ]
    if not rows:
        return (
            "<p>The run has written no scores of pairs: none is held out, its data are no pairs, or it is of "
            "an earlier version.</p>"
        )
    note = (
        '<p class="quiet">Of the scores that the run wrote: at most 1,024 examples of a held-out set, and '
        "256 of the training part. Interval: bootstrap. Longer: the accuracy of choosing the longer "
        "response, by tokens (the command evaluate counts characters). Loss: of the distance of both scores "
        "alone, as evaluate's; the curves show the loss that was trained, with the data's margins if it has "
        "any.</p>"
    )
    return html.table(head, rows, num_text=3) + note


def _summary_cells(one: SetSummary) -> list[str]:
    return [
        f"{one.num_pairs:,}",
        f"{one.accuracy.value:.4f}",
        f"{one.accuracy.low:.3f} to {one.accuracy.high:.3f}",
        f"{one.longer_accuracy:.4f}",
        f"{one.loss:.4f}",
        f"{one.ece:.4f}",
        f"{one.auc:.4f}",
        f"{one.chosen:.3f}",
        f"{one.rejected:.3f}",
    ]


def _source_tables(runs: Sequence[NamedRun]) -> Iterator[str]:
    """The accuracy of each source after training, where the data names sources."""
    for run in runs:
        for one in run.sets:
            after = by_source(one.after) if one.after is not None else {}
            if after:
                before = by_source(one.before) if one.before is not None else {}
                rows = [_source_cells(name, before.get(name), pairs) for name, pairs in sorted(after.items())]
                yield f"<h3>{html.escaped(f'By source: {run.name}, {one.name}')}</h3>"
                yield html.table(["source", "pairs", "before", "accuracy after", "mean margin"], rows)


def _source_cells(name: str, before: ScoredPairs | None, after: ScoredPairs) -> list[object]:
    accuracy = accuracy_of(after)
    return [
        name,
        f"{len(after):,}",
        "-" if before is None else f"{accuracy_of(before):.3f}",
        html.bar(accuracy, f"{accuracy:.3f}"),
        f"{after.margins.mean():+.3f}",
    ]


def _score_charts(page: Page, runs: Sequence[NamedRun]) -> Iterator[str]:
    for run in runs:
        for number, one in enumerate(run.sets):
            pictures = [page.picture(chart) for chart in charts_of_set(one, prefix=file_name(run.name))]
            what = "a sample of the training part" if one.name == TRAINING else one.name
            yield html.details(
                Html(f"<b>{html.escaped(run.name)}</b>, {html.escaped(what)}"),
                html.grid("charts", pictures),
                is_open=len(runs) == 1 or number == 0,
            )


def charts_of_set(one: ScoredSet, *, prefix: str) -> Iterator[Chart]:
    """Distributions before and after on one scale, margins, score against length, calibration."""
    name = f"{prefix}_{file_name(one.name)}"
    known = [pairs for pairs in (one.before, one.after) if pairs is not None]
    if not known:
        return
    low = min(float(min(pairs.chosen.min(), pairs.rejected.min())) for pairs in known)
    high = max(float(max(pairs.chosen.max(), pairs.rejected.max())) for pairs in known)
    for when, pairs in (("before training", one.before), (f"after step {one.iteration}", one.after)):
        if pairs is not None:
            file = f"{name}_scores_{'before' if pairs is one.before else 'after'}"
            yield charts.score_histogram(file, f"Scores {when}", pairs, low=low, high=high)
    yield charts.margin_histogram(f"{name}_margins", "Margins", one.before, one.after)
    yield charts.score_by_length(f"{name}_lengths", "Score against length", known[-1])
    yield charts.calibration(f"{name}_calibration", "Calibration", one.before, one.after)


def file_name(text: str) -> str:
    """The text as a part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in text)


def _pairs(runs: Sequence[NamedRun]) -> Iterator[str]:
    shown = False
    for run in runs:
        for one in run.sets:
            if one.after is None or one.name == TRAINING:
                continue
            worst, best = extremes(one.after, NUM_EXAMPLES)
            for kind, places in (
                ("wrong, lowest margin first", worst),
                ("right, highest margin first", best),
            ):
                if places:
                    shown = True
                    yield f"<h3>{html.escaped(f'{run.name}, {one.name}: {kind}')}</h3>"
                    yield from (_pair(one.after, place) for place in places)
    if not shown:
        yield "<p>No texts of pairs were written: the run has not come to its end, or evaluated none.</p>"


def _pair(pairs: ScoredPairs, place: int) -> str:
    example = pairs.examples[place]
    assert example.responses is not None
    better, worse = pairs.places[place].tolist()
    source = f", source {example.source}" if example.source else ""
    summary = (
        f"margin {pairs.margins[place]:+.3f}, row {example.row} of {example.dataset}{source}: "
        f"{' '.join((example.prompt or '').split())[-90:]}"
    )
    texts = (
        ("prompt", "prompt", example.prompt or ""),
        ("chosen", f"chosen, score {pairs.chosen[place]:.3f}", example.responses[better]),
        ("rejected", f"rejected, score {pairs.rejected[place]:.3f}", example.responses[worse]),
    )
    content = "".join(
        f'<span class="quiet">{html.escaped(label)}</span><pre class="{kind}" dir="auto">'
        f"{html.escaped(text)}</pre>"
        for kind, label, text in texts
    )
    return html.details(summary, content)


def _about(run: NamedRun) -> str:
    about = run.files.about
    if not about:
        return f"<p>{html.escaped(run.name)} has no about.json: a run of an earlier version wrote it.</p>"
    flags = about.get("flags", {})
    facts = {name: value for name, value in about.items() if name != "flags"}
    content = html.table(["", ""], _facts(facts), num_text=2)
    words = [[f"--{name.replace('_', '-')}", _text(value)] for name, value in sorted(flags.items())]
    return html.details(
        Html(f"<b>{html.escaped(run.name)}</b>, started {html.escaped(about.get('started', '-'))}"),
        content + "<h3>Flags that differ from their defaults</h3>" + html.table(["", ""], words, num_text=2),
        is_open=True,
    )


def _facts(values: dict[str, Any]) -> list[list[object]]:
    """Each fact with its value; those of an object joined."""
    return [[name.removesuffix("_bytes").replace("_", " "), _text(value)] for name, value in values.items()]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.removesuffix('_bytes')} {_text(one)}" for name, one in value.items())
    if isinstance(value, list):
        return "; ".join(_text(one) for one in value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 2**30:
        return f"{value / 2**30:.1f} GiB"
    return str(value)
