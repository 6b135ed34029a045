"""Events as lines for people."""

import math
import re

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
    check = {"event": "check.result", "level": "info", "name": "mask_diversity", "outcome": "failed"}
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


def test_a_check_without_evidence_is_told_as_such() -> None:
    """Neither passed nor failed."""
    event = {"event": "check.result", "level": "info", "name": "stability", "outcome": "unmeasured"}
    line = terminal.sentence({**event, "finding": "a single seed", "advice": ""})
    assert line == "check stability not measured: a single seed"


def test_what_is_brought_from_a_store_has_its_size() -> None:
    """What was downloaded is told apart from what was on this disk already."""
    event = {
        "event": "pull.fetched",
        "level": "info",
        "uri": "s3://b/data",
        "files": 1010,
        "bytes": 2_340_000_000,
    }
    told = [
        terminal.sentence({**event, "downloaded_files": n, "downloaded_bytes": n_bytes})
        for n, n_bytes in ((0, 0), (1, 999_499), (1010, 2_340_000_000))
    ]
    assert told == [
        "s3://b/data: 1,010 files (2.3 GB), all of it on this disk already",
        "s3://b/data: 1,010 files (2.3 GB), 1 file (999 kB) downloaded",
        "s3://b/data: 1,010 files (2.3 GB)",
    ]


def test_a_store_that_ignores_conditions_is_named() -> None:
    """What a lease rests on is said where it lacks."""
    event = {"event": "store.checked", "level": "info", "uri": "s3://b", "clock_skew_s": 0.1, "seconds": 0.25}
    assert (
        terminal.sentence({**event, "conditional_writes": True}) == "s3://b: can be read and written (0.2 s)"
    )
    assert str(terminal.sentence({**event, "conditional_writes": False})).endswith(
        "ignores conditional writes"
    )


def test_a_champion_is_named_with_the_one_before() -> None:
    """The first one follows nobody; an attempt that takes over says so."""
    event = {
        "event": "champion.promoted", "level": "info", "model_uri": "s3://b/models/n", "run": "runs/n/2",
        "generation": 2, "previous": "runs/n/1",
    }  # fmt: skip
    assert terminal.sentence(event) == (
        "new champion: runs/n/2, generation 2, after runs/n/1\n         s3://b/models/n"
    )
    assert "after" not in str(terminal.sentence({**event, "previous": None}))
    lease = {"event": "lease.acquired", "level": "info", "attempt": 2}
    assert terminal.sentence({**lease, "taken_over": False}) == "attempt 2"
    assert str(terminal.sentence({**lease, "taken_over": True})).startswith("attempt 2, taken over")


def test_every_field_of_a_store_event_is_one_that_it_documents() -> None:
    """A sentence reads no field that EVENTS does not name: an event with just those makes a line."""
    values = {"seconds": 1.0, "files": 2, "bytes": 3, "downloaded_files": 1, "downloaded_bytes": 1}
    told = 0
    for name in terminal.SENTENCES:
        if name.split(".")[0] in ("store", "pull", "lease", "run", "champion") or name == "job.nothing_new":
            fields = re.findall(r"\w+", EVENTS[name].partition(": ")[2])
            assert terminal.sentence(
                {f: values.get(f, "x") for f in fields} | {"event": name, "level": "info"}
            )
            told += 1
    assert told >= 10


def test_a_warning_says_in_which_fold() -> None:
    event = {"event": "job.warning", "level": "warning", "message": "odd"}
    assert terminal.sentence(event) == "warning: odd"
    assert terminal.sentence({**event, "fold": 2}) == "warning (fold 2): odd"
