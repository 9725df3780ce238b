"""Charts as pictures: inline SVG whose colours are variables of the page, and PNG."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import write_whole
from modellink_rm.report.charts import Chart, Palette

# What the page calls its colours; they differ between light and dark.
VARIABLES = Palette(
    ink="var(--ink)",
    grid="var(--grid)",
    chosen="var(--chosen)",
    rejected="var(--rejected)",
    series=tuple(f"var(--series-{number})" for number in range(1, 7)),
)
LIGHT = Palette(
    ink="#22272e",
    grid="#b9c0c9",
    chosen="#1f6fd6",
    rejected="#e07a1f",
    series=("#1f6fd6", "#c2410c", "#12805c", "#8b46c1", "#b0851a", "#c0306f"),
)
DARK = Palette(
    ink="#e4e8ee",
    grid="#56606d",
    chosen="#6fb1ff",
    rejected="#ffa657",
    series=("#6fb1ff", "#ff8f5c", "#4fc99a", "#c69cf4", "#e0bd5a", "#f48bb8"),
)
_SIZE = (4.2, 2.7)  # inches
_PNG_DOTS = 160  # an inch


def check_matplotlib() -> None:
    """Check that charts can be drawn.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "report draws with matplotlib, which is not installed: pip install 'modellink-rm[plot]'"
        ) from None


def svg_of(chart: Chart, *, number: int) -> str:
    """The chart as an element of a page, in `VARIABLES`.

    Args:
        number: of the chart on the page, so that the names inside of it are no other's.
    """
    colours = {colour: f"#0000{place:02x}" for place, colour in enumerate(_all(VARIABLES), start=1)}
    stand_ins = Palette(
        ink=colours[VARIABLES.ink],
        grid=colours[VARIABLES.grid],
        chosen=colours[VARIABLES.chosen],
        rejected=colours[VARIABLES.rejected],
        series=tuple(colours[colour] for colour in VARIABLES.series),
    )
    settings = {"svg.fonttype": "none", "svg.hashsalt": "modellink-rm"}
    content = _saved(
        chart, stand_ins, settings, format="svg", transparent=True, metadata={"Date": None}
    ).decode()
    content = content[content.index("<svg") :]
    content = re.sub(r"\s*<metadata>.*?</metadata>", "", content, flags=re.DOTALL)
    content = re.sub(r'<svg\b[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', content, count=1)
    content = re.sub(r'(\bid="|xlink:href="#|href="#|url\(#)', rf"\g<1>c{number}-", content)
    content = content.replace("xlink:href=", "href=")
    content = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", content)
    for variable, colour in colours.items():
        content = content.replace(colour, variable)
    return re.sub(r"\n\s*", "\n", content).strip()


def png_of(chart: Chart) -> bytes:
    """The chart as a PNG file, on white."""
    settings = {"figure.facecolor": "white"}
    return _saved(chart, LIGHT, settings, format="png", dpi=_PNG_DOTS, title=chart.title)


def write_pictures(directory: Path, charts: Sequence[Chart]) -> None:
    """Write every chart as a PNG file."""
    for chart, (_, path) in zip(charts, picture_files(directory, charts), strict=True):
        write_whole(path, png_of(chart))


def picture_files(directory: Path | None, charts: Sequence[Chart]) -> list[tuple[str, Path]]:
    """The files that `write_pictures` writes, each with its flag; none without a directory."""
    return [] if directory is None else [("--png", directory / f"{chart.name}.png") for chart in charts]


def _all(palette: Palette) -> list[str]:
    return [palette.ink, palette.grid, palette.chosen, palette.rejected, *palette.series]


def _saved(
    chart: Chart, palette: Palette, settings: dict[str, Any], *, title: str | None = None, **options: Any
) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "font.size": 8,
        "axes.formatter.limits": (-3, 5),
        "axes.edgecolor": palette.grid,
        "axes.labelcolor": palette.ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": palette.grid,
        "grid.alpha": 0.45,
        "grid.linewidth": 0.5,
        "text.color": palette.ink,
        "xtick.color": palette.ink,
        "ytick.color": palette.ink,
        "legend.frameon": False,
        "legend.fontsize": 7.5,
        "legend.handlelength": 2.8,  # a dashed line shows its dashes
    }
    buffer = io.BytesIO()
    with matplotlib.rc_context({**style, **settings}):
        figure = Figure(figsize=_SIZE)
        # Fixed margins: a layout that is measured takes half as long again.
        figure.subplots_adjust(left=0.13, right=0.98, bottom=0.16, top=0.95 if title is None else 0.91)
        axes = figure.add_subplot()
        chart.draw(axes, palette)
        if title is not None:
            axes.set_title(title)
        figure.savefig(buffer, **options)
    return buffer.getvalue()
