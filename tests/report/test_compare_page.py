"""compare.html: one page that loads nothing, shows everything and takes names as text."""

import re
from pathlib import Path

import numpy as np
import pytest

from job.evaluation.compare import Comparison, compare, open_runs
from job.report.compare_page import plot, render_comparison, scatter
from tests.evaluation.made_up_runs import write_run
from tests.report.test_html import HOSTILE, Page

BASE = np.array([0.80, 0.82, 0.78, 0.85, 0.81, 0.79, 0.83, 0.80])
GAIN = np.array([0.02, 0.01, 0.03, 0.02, 0.015, 0.025, -0.02, 0.0])


def compared(*folders: Path) -> Comparison:
    return compare(open_runs([str(folder) for folder in folders]))


@pytest.fixture
def two(tmp_path: Path) -> Comparison:
    return compared(write_run(tmp_path / "a", BASE), write_run(tmp_path / "b", BASE + GAIN, spec={"seed": 7}))


def test_the_page_is_self_contained(two: Comparison) -> None:
    """Nothing is loaded: its policy allows its own style and script alone."""
    shown = Page(render_comparison(two))
    policy = next(m["content"] for m in shown.all("meta") if "http-equiv" in m)
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert shown.all("link", "img", "iframe") == []
    assert all("src" not in script for script in shown.all("script"))
    assert not any("style" in attributes for _, attributes in shown.elements)


def test_the_page_holds_answer_differences_metrics_settings_and_images(two: Comparison) -> None:
    """Every image with its Dice, the setting that differs, and every metric."""
    html = render_comparison(two)
    shown = Page(html)
    assert shown.text.index("Not shown to differ") < shown.text.index("Every metric")
    assert all(image.name in shown.text for image in two.images)
    assert re.search(r'<th scope="row">seed</th><td class="run">0</td><td class="run">7</td>', html)
    assert all(name in shown.text for name in ("IoU", "clDice", "Betti-1 error"))
    images = html[html.index('id="images"') :]
    changes = [float(v) for v in re.findall(r'<td class="n (?:good|bad|same)" data-value="([^"]+)"', images)]
    assert changes == pytest.approx(sorted(GAIN), abs=1e-6)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """Names of runs, images and patients, and values of a spec, are shown and never interpreted."""
    rows = [HOSTILE, "y", "z"]
    a = write_run(tmp_path / "a", BASE[:3], pixels=rows, patients=rows, name=HOSTILE, spec={HOSTILE: HOSTILE})
    b = write_run(tmp_path / "b", BASE[:3] + 0.01, pixels=rows)
    shown = Page(render_comparison(compared(a, b)))
    assert len(shown.all("script")) == 1
    assert not any(name.startswith("on") for _, attributes in shown.elements for name in attributes)
    assert shown.text.count(HOSTILE) >= 4
    assert "49" not in re.findall(r"onerror=alert\(1\)>(\S+)", shown.text)


def test_many_runs_and_a_single_patient_have_a_page(tmp_path: Path) -> None:
    """Four runs have three scatters; one image of one patient has intervals without ends."""
    runs = [write_run(tmp_path / f"r{i}", BASE + i * GAIN / 10) for i in range(4)]
    shown = Page(render_comparison(compared(*runs)))
    assert sum(attributes.get("viewbox") == "0 0 360 360" for attributes in shown.all("svg")) == 3
    single = [write_run(tmp_path / name, [dice]) for name, dice in (("s", 0.5), ("t", 0.6))]
    assert "unbounded: one patient" in Page(render_comparison(compared(*single))).text


def test_dots_lie_above_the_diagonal_where_the_other_run_is_better(two: Comparison) -> None:
    """Equal axes: the place of a dot relative to the diagonal is the sign of the difference."""
    chart = scatter(two, 1)
    left, right, top, bottom = chart.edges
    assert right - left == bottom - top
    above = [(dot.x - left) - (bottom - dot.y) < -0.11 for dot in chart.dots]
    assert above == [image.dice[1] > image.dice[0] for image in two.images]
    assert all(left <= dot.x <= right and top <= dot.y <= bottom for dot in chart.dots)
    assert "6 above the diagonal, 1 on it, 1 below" in chart.alt


def test_equal_runs_lie_on_zero(tmp_path: Path) -> None:
    """Two runs that differ nowhere: the mark lies on the line of no difference."""
    laid_out = plot(compared(write_run(tmp_path / "a", BASE), write_run(tmp_path / "b", BASE)))
    assert laid_out.bars[0].at == laid_out.zero
    assert laid_out.bars[0].judgement == "same"


def test_the_same_runs_make_the_same_page(two: Comparison) -> None:
    """No clock and no chance."""
    assert render_comparison(two) == render_comparison(two)
