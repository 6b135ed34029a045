import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.evaluation.results import VerdictName
from job.report.markdown import escape, render_markdown
from tests.report.factory import make_info

HOSTILE = "a|b <script>alert(1)</script> ![x](http://example.org/x.png) `c`\n# title"


def cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line)[1:-1]


@pytest.mark.parametrize("verdict", get_args(VerdictName))
@pytest.mark.parametrize("is_bare", [False, True])
def test_every_table_is_whole(verdict: VerdictName, is_bare: bool) -> None:
    """Each table has a header, a rule and rows of as many cells, and the text stays readable."""
    lines = render_markdown(make_info(verdict, is_bare=is_bare)).splitlines()
    assert len(lines) <= 280
    for block in "\n".join(lines).split("\n\n"):
        rows = [cells(line) for line in block.splitlines() if line.startswith("|")]
        if rows:
            assert len(rows) >= 3
            assert {len(row) for row in rows} == {len(rows[0])}
            assert all(re.fullmatch(r" ?-+:? ?", cell) for cell in rows[1])


def test_the_verdict_comes_first() -> None:
    """The title says the verdict and the first paragraph the sentence."""
    lines = render_markdown(make_info("inconclusive")).splitlines()
    assert lines[0].endswith("quick: inconclusive")
    assert lines[2].startswith("It is not decided whether ppo beats what you have today")


def test_no_figure_is_nan() -> None:
    """Figures that are missing are dashes, those without end are told in words."""
    text = render_markdown(make_info(n_images=1))
    assert not re.search(r"\b(nan|inf|None)\b", text)
    assert "unbounded: one patient" in text


def test_both_reports_have_the_same_sections() -> None:
    """What the page shows of a run stands in the text too, and is left out where it was not done."""
    text = render_markdown(make_info(dropped_by=["reward_hacking"]))
    for title in (
        "Numbers behind the ladder",
        "Checks",
        "Sweep",
        "Seeds",
        "Reward network",
        "Other datasets",
    ):
        assert f"\n## {title}\n" in text
    assert "| PPO policy (dropped: reward hacking) |" in text
    assert "| Policy | The PPO policy may not ship: reward_hacking |" in text
    assert "Each cell: Today / Best fixed / Ships." in text
    assert "hunter2" not in text
    bare = render_markdown(make_info(is_bare=True))
    assert not re.search(r"^## (Sweep|Seeds|Other datasets|How it was measured)$", bare, re.MULTILINE)


def test_names_cannot_break_out_of_their_cell() -> None:
    """A file name with markup, a link or a line break is shown as it is spelled."""
    text = render_markdown(make_info(names=[HOSTILE, "b", "c"]))
    line = next(line for line in text.splitlines() if "script" in line)
    assert len(cells(line)) == 6
    assert "<script" not in text
    assert "![x](" not in text
    assert "\n# title" not in text


@given(st.text(max_size=60))
def test_escape_leaves_one_line_without_markup(text: str) -> None:
    """Whatever the text, no bare pipe, angle bracket, bracket or line break is left."""
    escaped = escape(text)
    assert len(escaped.splitlines()) <= 1
    assert "<" not in escaped
    assert not re.search(r"(?<!\\)(\\\\)*[|\[\]`*~]", re.sub(r"\\[\\|\[\]`*~]", "", escaped))
