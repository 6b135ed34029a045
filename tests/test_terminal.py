"""Events as lines for people."""

import math

from job import terminal
from job.logs import EVENTS


def test_every_sentence_belongs_to_a_documented_event() -> None:
    """A renamed event must not silently lose its sentence."""
    assert set(terminal.SENTENCES) <= set(EVENTS)
    assert set(EVENTS) >= terminal.SILENT


def test_an_event_without_a_sentence_is_told_plainly() -> None:
    """Names and rounded figures, without what only programs read."""
    line = terminal.sentence(
        {"event": "data.left_out", "level": "info", "patients": 2, "share": 0.123456, "fingerprint": "f"}
    )
    assert line == "data.left_out  patients: 2, share: 0.1235"


def test_a_failed_check_shouts_and_advises() -> None:
    """What went wrong and what to do stand in one line."""
    check = {"event": "check.result", "level": "info", "name": "mask_diversity", "passed": False}
    line = terminal.sentence({**check, "finding": "masks differ by 0", "advice": "more thresholds"})
    assert line == "check mask_diversity FAILED: masks differ by 0 (more thresholds)"


def test_what_repeats_is_silent_unless_it_warns() -> None:
    """Bars show progress; a warning of the same event would still be seen."""
    event = {"event": "progress", "what": "pull", "done": 1}
    assert terminal.sentence({**event, "level": "info"}) is None
    assert terminal.sentence({**event, "level": "warning"}) is not None


def test_figures_that_are_not_numbers_do_not_break_a_line() -> None:
    """A rank correlation may be undefined."""
    summary = {"event": "reward.summary", "level": "info", "mae": 0.1, "spearman": math.nan, "regret": 0.0}
    assert "nan" in str(terminal.sentence(summary))
