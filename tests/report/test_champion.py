import math
import re

import pytest

from job.evaluation.drift import WARNING
from job.report.champion import (
    MOST_ACTIONS,
    action_shares,
    contest,
    dice_table,
    drift_view,
    shift_chart,
    shift_table,
)
from job.report.html import render_html
from job.report.markdown import render_markdown
from job.report.summary import answer_table
from tests.report.factory import make_info
from tests.report.promotions import DECISIONS, ODD_DRIFT, Decision, promoting
from tests.report.test_html import HOSTILE, Page


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("has_champion", [True, False])
def test_the_decision_is_told_everywhere(decision: Decision, has_champion: bool) -> None:
    """Page, text and terminal say the same headline and sentence, with nothing spelled nan or None."""
    info = promoting(
        make_info("invalid" if decision == "invalid" else "improved"), decision, has_champion=has_champion
    )
    match = contest(info)
    assert match is not None
    page, text = Page(render_html(info, {})).text, render_markdown(info)
    for told in (page, text):
        assert match.words.headline in told
        assert match.sentence.split(":")[0] in told
        assert not re.search(r"\b(nan|inf|None|Undefined)\b", told)
    assert dict(answer_table(info))["Champion"].startswith(f"{match.words.headline}: ")
    assert page.index("The ladder") < page.index(match.words.headline) < page.index("Numbers behind")


def test_headlines_tell_the_cases_apart() -> None:
    """Beaten or not, with a champion before or none: each has words of its own, and none says promoted."""
    headlines = {
        (decision, has): contest(promoting(make_info(), decision, has_champion=has))
        for decision in DECISIONS[:2]
        for has in (True, False)
    }
    said = {match.words.headline for match in headlines.values() if match is not None}
    assert said == {"The champion is beaten", "The champion stays", "The first champion", "Still no champion"}


def test_a_run_that_does_not_promote_has_neither_section() -> None:
    """Nothing is said of champions where none was asked for."""
    info = make_info()
    ids = {attributes.get("id") for _, attributes in Page(render_html(info, {})).elements}
    assert not ids & {"champion", "drift"}
    assert "## Champion" not in render_markdown(info)
    assert "Champion" not in dict(answer_table(info))
    assert contest(info) is drift_view(info) is None


def test_the_contestants_stand_side_by_side() -> None:
    """Challenger, champion and no-op have Dice and interval; the difference is the challenger's."""
    info = promoting(make_info(), left_out=5)
    match, promotion = contest(info), info.promotion
    assert match is not None
    assert match.table is not None
    assert promotion is not None
    assert promotion.vs_champion is not None
    assert promotion.challenger_dice is not None
    challenger, champion, noop = match.table.rows
    assert challenger.cells[2] == f"{promotion.challenger_dice.mean:.3f}"
    assert challenger.cells[4].startswith(
        f"+{promotion.vs_champion.mean:.3f} (+{promotion.vs_champion.low:.3f}"
    )
    assert (champion.tag, champion.cells[4]) == ("generation 3", "–")
    assert "runs/quick/91ac02d7e6f0" in champion.cells[1]
    assert noop.cells[2] == f"{info.results.verdict.dice_before.mean:.3f}"
    assert noop.tag == "on all test images"
    assert match.basis == "24 test images, 12 patients; without 5 that the champion learned from"


def test_without_a_champion_the_noop_takes_its_place() -> None:
    """Two contestants, and the difference is to today."""
    match = contest(promoting(make_info(), has_champion=False))
    assert match is not None
    assert match.table is not None
    assert [row.tag for row in match.table.rows] == ["this run", "in the champion's place"]
    assert match.opponent == "today"


def test_nothing_is_compared_after_an_invalid_run() -> None:
    """No table, no difference: the sentence alone, and the answer repeats it."""
    info = promoting(make_info("invalid"), "invalid")
    match = contest(info)
    assert match is not None
    assert match.table is match.difference is None
    assert dict(answer_table(info))["Champion"] == f"Not compared: {match.sentence}"


def test_a_shift_is_drawn_from_the_known_mean() -> None:
    """The diamond stands at no shift, the dot as many standard deviations beside it as the figure says."""
    info = promoting(make_info())
    assert info.promotion is not None
    assert info.promotion.drift is not None
    statistics = info.promotion.drift.statistics
    chart = shift_chart(statistics)
    assert chart is not None
    places = {tick.label: tick.at for tick in chart.ticks}
    per_sd = places["1.0"] - places["0.0"]
    for row, one in zip(chart.rows, statistics, strict=True):
        known, new = row.marks
        assert known.at == places["0.0"]
        assert new.at == pytest.approx(places["0.0"] + one.shift * per_sd, abs=0.02)
        assert row.figures == f"{one.shift:+.2f}".replace("-", "−")


def test_small_shifts_do_not_fill_the_chart() -> None:
    """The scale reaches a standard deviation to either side, however small all shifts are."""
    tiny = ODD_DRIFT.statistics[0].model_copy(update={"shift": 0.01})
    chart = shift_chart([tiny])
    assert chart is not None
    assert abs(chart.rows[0].marks[1].at - chart.rows[0].marks[0].at) < 1


def test_what_is_undefined_is_a_dash() -> None:
    """A shift without end lies at the edge, one that is not a number nowhere; no share is no bar."""
    chart, table = shift_chart(ODD_DRIFT.statistics), shift_table(ODD_DRIFT)
    assert chart is not None
    assert table is not None
    assert [len(row.marks) for row in chart.rows] == [2, 1]
    assert chart.rows[0].marks[1].at == 100.0
    assert [row.cells[-1] for row in table.rows] == ["∞", "–"]
    (_, second) = sorted(action_shares(ODD_DRIFT), key=lambda share: share.label)
    assert (second.figures, second.lengths) == (("–", "100 %"), (0.0, 100.0))
    found = dice_table(ODD_DRIFT)
    assert found is not None
    assert [row.cells[:2] for row in found.rows] == [("New", "0.800")]
    info = promoting(make_info())
    assert info.promotion is not None
    odd = info.model_copy(update={"promotion": info.promotion.model_copy(update={"drift": ODD_DRIFT})})
    assert not re.search(r"\b(nan|inf|None)\b", Page(render_html(odd, {})).text + render_markdown(odd))


def test_every_choice_of_the_champion_is_accounted_for() -> None:
    """The most frequent actions come first, the rest as one, and both columns sum to all images."""
    many = 40
    drift = ODD_DRIFT.model_copy(
        update={
            "actions_known": [2 * i / (many * (many - 1)) for i in range(many)],
            "actions_new": [1 / many] * many,
            "actions_labels": [f"action {i}" for i in range(many)],
        }
    )
    shares = action_shares(drift)
    assert len(shares) == MOST_ACTIONS + 1
    assert shares[0].label == f"action {many - 1}"
    assert shares[-1].label == f"{many - MOST_ACTIONS} other actions"
    assert math.isclose(sum(share.known for share in shares), 1.0)
    assert math.isclose(sum(share.new for share in shares), 1.0)


@pytest.mark.parametrize("is_warning", [True, False])
def test_a_warning_of_drift_stands_out(is_warning: bool) -> None:
    """Where somebody should look the sentence has a ground of its own; elsewhere it is plain text."""
    info = promoting(make_info())
    assert info.promotion is not None
    assert info.promotion.drift is not None
    sentence = f"{WARNING if is_warning else ''}8 new images: told."
    drift = info.promotion.drift.model_copy(update={"sentence": sentence})
    odd = info.model_copy(update={"promotion": info.promotion.model_copy(update={"drift": drift})})
    view = drift_view(odd)
    assert view is not None
    assert view.is_warning == is_warning
    assert (f'<p class="warning">{sentence}</p>' in render_html(odd, {})) == is_warning


def test_hostile_words_of_a_champion_are_text() -> None:
    """A prompt in the champion's line, or a name in a sentence, is shown and never interpreted."""
    info = promoting(make_info())
    assert info.promotion is not None
    assert info.promotion.drift is not None
    hostile = info.promotion.model_copy(
        update={
            "sentence": HOSTILE,
            "champion_candidate": HOSTILE,
            "drift": info.promotion.drift.model_copy(
                update={"sentence": HOSTILE, "actions_labels": [HOSTILE] * len(info.actions)}
            ),
        }
    )
    odd = info.model_copy(update={"promotion": hostile})
    shown = Page(render_html(odd, {}))
    assert shown.text.count(HOSTILE) >= 4
    assert len(shown.all("script")) == 1
    assert "<script" not in render_markdown(odd)
