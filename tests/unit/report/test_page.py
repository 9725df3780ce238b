"""The page: complete in itself, every text of data escaped, every colour a variable."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from modellink_rm.report.best import BestCheckpoint, write_best
from modellink_rm.report.charts import Chart
from modellink_rm.report.page import Page, make_page
from modellink_rm.report.pictures import png_of
from modellink_rm.report.run_files import RunFiles, read_run
from tests.unit.report.runs import HOSTILE, scored, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    return read_run(write_run(tmp_path_factory.mktemp("report") / "run", scored_sets=("maths",)))


@pytest.fixture(scope="module")
def page(run: RunFiles) -> str:
    return make_page([run])[0]


class Elements(HTMLParser):
    """The tags, attributes and text of a page; every element must be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_of_runs_are_shown_as_they_are(tmp_path: Path) -> None:
    names = ("$a^$ and $", "_hidden", "half \udc80")
    text, _ = make_page([read_run(write_run(tmp_path / name, scored_sets=())) for name in names])
    text.encode()
    for name in names[:2]:
        assert f"{name}: valid</text>" in text


def test_every_picture_of_a_page_has_a_name_of_its_own() -> None:
    page = Page()
    for title in ("of x y", "of x_y"):
        page.picture(Chart(name="x_y_margins", title=title, draw=lambda axes, palette: None))
    assert [(one.name, one.title) for one in page.charts] == [
        ("x_y_margins", "of x y"),
        ("x_y_margins_2", "of x_y"),
    ]


def test_texts_of_the_data_stay_texts(page: str) -> None:
    elements = Elements(page)
    assert elements.open == []
    assert not {"script", "img"} & set(elements.tags)
    assert not any(name.startswith("on") for name, _ in elements.attributes)
    assert f"Because. {HOSTILE}" in elements.text
    assert "世界" in elements.text
    assert "a/<b>chat" in elements.text


def test_nothing_is_fetched(page: str) -> None:
    for name, value in Elements(page).attributes:
        if name in ("src", "href", "xlink:href", "action"):
            assert value.startswith("#")
    assert "default-src 'none'" in page
    assert "@import" not in page


def test_colours_of_charts_are_variables_and_their_names_differ(page: str) -> None:
    charts = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    assert len(charts) == 6 + 5
    for chart in charts:
        # Black and white are matplotlib's names of clip paths and nothing that is seen.
        assert not re.search(r"(?:fill|stroke): #(?!ffffff)[0-9a-f]{6}", chart)
    names = [value for name, value in Elements(page).attributes if name == "id"]
    assert len(names) == len(set(names))
    links = {value for name, value in Elements(page).attributes if name == "href"}
    links |= {f"#{name}" for name in re.findall(r"url\(#([^)]+)\)", page)}
    assert {link.removeprefix("#") for link in links} <= set(names)


def test_every_colour_has_a_value_for_light_and_for_dark(page: str) -> None:
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    light, dark = page.split("prefers-color-scheme: dark", 1)
    for name in used:
        assert f"{name}:" in light
        assert f"{name}:" in dark.split("* {", 1)[0]


def test_the_page_says_what_the_run_was(page: str) -> None:
    text = Elements(page).text
    for part in ("0.500 → 0.900", "8 of 8", "By source: run, maths", "--lr", "1e-05", "step 8"):
        assert part in text


def test_runs_stand_side_by_side_under_names_that_differ(run: RunFiles) -> None:
    page, charts = make_page([run, run])
    assert "run (1), run (2)" in page
    assert len({chart.name for chart in charts}) == len(charts) == 6 + 2 * 5


def test_the_best_checkpoint_has_a_tile(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", scored_sets=())
    write_best(directory, BestCheckpoint(iteration=4, metric="maths/loss", value=0.5))
    assert "0.5000best maths/loss, at step 4" in Elements(make_page([read_run(directory)])[0]).text


def test_a_run_without_scores_has_its_curves(run: RunFiles) -> None:
    bare = RunFiles(name="bare", rows=run.rows, scores=(), about={})
    page, charts = make_page([bare])
    assert len(charts) == 6
    assert "has written no scores of pairs" in page


def test_entropy_and_log_ratio_of_a_policy_have_curves(run: RunFiles) -> None:
    names = ("training_entropy", "training_log_ratio")
    rows = tuple(
        {**row, "valid/entropy": 2.5, "valid/log_ratio": -0.1} if "valid/loss" in row else row
        for row in run.rows
    )
    found = make_page([RunFiles(name="policy", rows=rows, scores=(), about={})])[1]
    assert [chart.name for chart in found[3:5]] == list(names)
    assert not {chart.name for chart in make_page([run])[1]} & set(names)


def test_a_run_on_responses_in_steps_has_its_curves(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", scored_sets=())
    steps = [
        scored(number, scores=(0.5, -1.0, 2.0), ranks=(1,), num_tokens=(9,), iteration=iteration)
        for iteration in (0, 8)
        for number in range(3)
    ]
    (directory / "scores.jsonl").write_text("".join(json.dumps(one.to_json()) + "\n" for one in steps))
    (directory / "about.json").write_text('{"flags": {"stage": "prm"}}')
    rows = [
        {"iteration": 1, "loss": 0.7, "accuracy": 0.5, "grad_norm": 1.0},
        {"iteration": 1, "valid/loss": 0.7},
    ]
    (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    page, charts = make_page([read_run(directory)])
    assert "<h1>Process reward model: run</h1>" in page
    assert [chart.name for chart in charts] == ["training_loss", "training_accuracy", "training_grad_norm"]
    assert "has written no scores of pairs" in page
    assert "<details" not in page.split('id="scores"')[1].split('id="pairs"')[0]


def test_pictures_are_png_files(run: RunFiles) -> None:
    bare = RunFiles(name="bare", rows=run.rows[:2], scores=(), about={})
    assert png_of(make_page([bare])[1][0]).startswith(b"\x89PNG")
