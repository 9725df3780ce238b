"""`python -m modellink_rm report`, and its page in a browser."""

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.commands.report import main
from tests.marks import full
from tests.unit.report.runs import write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# What the page says of itself in a frame of that width: a phone's.
FRAME = """<!DOCTYPE html><title>-</title><iframe src="page.html" width="{width}" height="800"></iframe>
<script>document.querySelector("iframe").onload = event => {{
  const page = event.target.contentDocument, root = page.documentElement;
  document.title = JSON.stringify({{
    width: root.clientWidth, scrolled: root.scrollWidth, title: page.title,
    background: getComputedStyle(page.body).backgroundColor,
    ink: getComputedStyle(page.body).color,
    label: getComputedStyle(page.querySelector("svg text")).fill,
    charts: [...page.querySelectorAll("svg")].filter(one => one.getBoundingClientRect().height > 100).length,
  }});
}}</script>"""


def test_page_and_pictures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", scored_sets=())
    output, pictures = tmp_path / "out" / "report.html", tmp_path / "png"
    assert main([str(run), "--output", str(output), "--png", str(pictures)]) == 0
    assert output.read_text().startswith("<!DOCTYPE html>")
    assert len(list(pictures.glob("*.png"))) == 6
    assert capsys.readouterr().out.startswith(f"report: {output} (")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{run}", "--output"),
        ("{none} --output {out}", "none holds no metrics.jsonl"),
        ("{run} --output {run}/scores.jsonl", "which this command reads"),
        ("{run} --output {out} --png {run}/metrics.jsonl", "cannot be made a directory"),
        ("{run} --output {png}/training_loss.png --png {png}", "is also written by --output"),
    ],
)
def test_mistake_is_one_line(words: str, message: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", scored_sets=())
    out = tmp_path / "report.html"
    with pytest.raises(UserError) as refused:
        main(words.format(run=run, out=out, none=tmp_path / "none", png=tmp_path / "png").split())
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = write_run(tmp_path / "run", scored_sets=())
    with pytest.raises(UserError, match=r"pip install 'modellink-rm\[plot\]'"):
        main([str(run), "--output", str(tmp_path / "report.html")])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), full(1200, "dark")])
def test_browser_shows_the_page_as_wide_as_its_screen_in_its_colours(
    width: int, scheme: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", scored_sets=("valid",))
    main([str(run), "--output", str(tmp_path / "page.html")])
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    shown = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", shown]
    flags += [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, f"file://{tmp_path}/frame.html"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout).group(1)))
    assert found["title"] == "Reward model: run"  # no script of a text ran
    assert found["width"] <= width
    assert found["scrolled"] == found["width"]
    assert found["charts"] == 6 + 5
    dark = "rgb(20, 24, 29)"
    assert (found["background"] == dark) == (scheme == "dark")
    assert found["label"] == found["ink"]
