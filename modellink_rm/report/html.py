"""Elements of the page as text; whatever comes from data is escaped here."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STYLE = """
:root { color-scheme: light dark;
LIGHT }
@media (prefers-color-scheme: dark) { :root {
DARK } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 78rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .6rem 0 .2rem }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .7rem; border-top: 1px solid var(--edge) }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem }
p, li { max-width: 48rem }
.quiet, figcaption, caption { color: var(--quiet) }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin-bottom: 1rem }
a { color: var(--series-1) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem }
.tile { background: var(--card); border: 1px solid var(--edge); border-radius: .5rem; padding: .6rem .8rem }
.tile b { display: block; font-size: 1.15rem; line-height: 1.3; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere }
.tile span { color: var(--quiet); font-size: .85rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: .8rem }
figure { margin: 0; background: var(--card); border: 1px solid var(--edge); border-radius: .5rem;
  padding: .5rem .6rem }
figcaption { font-size: .9rem; font-weight: 600; color: var(--ink) }
svg { display: block; width: 100%; height: auto; max-height: 22rem }
svg text { font-family: inherit }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem .3rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--edge) }
th { font-weight: 600; color: var(--quiet) }
th.text, td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 6rem }
.bar { display: inline-block; width: 7rem; height: .6rem; background: var(--edge); border-radius: .3rem;
  overflow: hidden; vertical-align: middle; margin-right: .5rem }
.bar i { display: block; height: 100%; background: var(--series-1) }
details { margin: .5rem 0; background: var(--card); border: 1px solid var(--edge); border-radius: .5rem }
summary { cursor: pointer; padding: .5rem .8rem; overflow-wrap: anywhere }
details > div { padding: 0 .8rem .8rem }
pre { margin: .2rem 0 .8rem; padding: .5rem .7rem; max-height: 18rem; overflow: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, monospace;
  background: var(--page); border-left: 3px solid var(--edge); border-radius: .2rem }
pre.chosen { border-color: var(--chosen) }
pre.rejected { border-color: var(--rejected) }
@media (max-width: 34rem) { .bar { width: 3rem } }
@media print { details { break-inside: avoid } }
"""
# No script and nothing from elsewhere, whatever a text contains.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Html:
    """Text that is HTML already."""

    text: str


def escaped(value: object) -> str:
    """The value as HTML: of text, every character as it is that UTF-8 has."""
    if isinstance(value, Html):
        return value.text
    return html.escape(str(value).encode(errors="replace").decode())


def document(*, title: str, style: str, body: Iterable[str]) -> str:
    """A whole page."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{escaped(title)}</title>",
            f"<style>{style}</style></head><body>",
            *body,
            "</body></html>",
            "",
        ]
    )


def figure(title: str, svg: str) -> str:
    """A chart with its title."""
    labelled = svg.replace("<svg ", f'<svg role="img" aria-label="{escaped(title)}" ', 1)
    return f"<figure><figcaption>{escaped(title)}</figcaption>{labelled}</figure>"


def grid(kind: str, items: Iterable[str]) -> str:
    """Elements side by side, as many as fit."""
    return f'<div class="{kind}">{"".join(items)}</div>'


def tile(value: object, label: object) -> str:
    """A number with what it is."""
    return f'<div class="tile"><b>{escaped(value)}</b><span>{escaped(label)}</span></div>'


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, num_text: int = 1) -> str:
    """A table whose first `num_text` columns are text and the others numbers."""

    def line(cells: Sequence[object], kind: str) -> str:
        marks = (' class="text"' if place < num_text else "" for place in range(len(cells)))
        return "".join(
            f"<{kind}{mark}>{escaped(cell)}</{kind}>" for cell, mark in zip(cells, marks, strict=True)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{line(head, "th")}</tr>{body}</table></div>'


def bar(share: float, text: str) -> Html:
    """A number between 0 and 1 with a bar before it."""
    width = f"{100 * min(1.0, max(0.0, share)):.1f}%"
    return Html(f'<span class="bar"><i style="width:{width}"></i></span>{escaped(text)}')


def details(summary: object, content: str, *, is_open: bool = False) -> str:
    """A part that can be opened."""
    return (
        f"<details{' open' if is_open else ''}><summary>{escaped(summary)}</summary>"
        f"<div>{content}</div></details>"
    )
