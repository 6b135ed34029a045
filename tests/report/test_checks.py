import math
from dataclasses import replace

from job.checks.result import CheckResult
from job.report.checks import BOUNDS, all_checks, check_groups, checks_line, dropped, failures, tally
from tests.report.factory import make_info


def a_check(name: str = "uplift", **changes: object) -> CheckResult:
    return replace(CheckResult(name, 0.02, 0.0, "candidate", "passed", "found", ""), **changes)  # type: ignore[arg-type]


def test_groups_hold_every_check_once_failures_first() -> None:
    """Checks before learning, advice and those of the policy stand apart, and none is lost."""
    info = make_info(dropped_by=["reward_hacking"])
    groups = check_groups(info)
    assert [group.severity for group in groups] == ["validity", "advice", "candidate"]
    assert sorted(check.name.replace(" ", "_") for group in groups for check in group.checks) == sorted(
        check.name for check in [*info.checks, *info.results.checks]
    )
    assert [check.name for check in groups[2].troubles] == ["reward hacking", "stability"]
    assert groups[2].checks[0].name == "reward hacking"
    assert groups[2].tally == "3 of 5 passed, 1 failed, 1 not measured"


def test_a_value_stands_beside_its_threshold_and_which_way_it_must_lie() -> None:
    """Every check of a run says whether its value has to be above or below."""
    info = make_info()
    assert {check.name for check in all_checks(info)} <= set(BOUNDS)
    views = {check.name: check for group in check_groups(info) for check in group.checks}
    assert (views["mask diversity"].value, views["mask diversity"].threshold) == ("0.121", "at least 0.01")
    assert views["learning"].threshold == "at most 0.9"
    assert (views["stability"].value, views["stability"].state) == ("–", "not measured")
    assert ("explained variance", "0.6") in views["learning"].details


def test_marks_differ_without_colour() -> None:
    """Passed, failed and not measured have marks and words of their own."""
    info = make_info(dropped_by=["uplift"])
    shown = {(c.outcome, c.mark, c.state) for group in check_groups(info) for c in group.checks}
    assert len({mark for _, mark, _ in shown}) == len({state for _, _, state in shown}) == 3


def test_the_line_of_checks() -> None:
    """Counts, then the names that need a look; the finding only where it makes the result invalid."""
    checks = [
        a_check("a"),
        a_check("b", outcome="failed", finding="bad"),
        a_check("c", outcome="failed", finding="worse", severity="validity"),
        a_check("d", outcome="unmeasured", value=math.nan),
    ]
    assert checks_line(checks) == "1 of 4 passed; failed: b, c (worse); not measured: d"
    assert checks_line(checks[:1]) == "1 of 1 passed"
    assert checks_line([]) == "none were run"
    assert tally(checks) == "1 of 4 passed, 2 failed, 1 not measured"


def test_failures_are_told_by_severity() -> None:
    """A failed advice is no validity failure."""
    assert [check.name for check in failures(make_info("invalid"), "validity")] == ["replay_identity"]
    assert failures(make_info(), "validity") == []
    assert [check.name for check in failures(make_info(), "advice")] == ["oracle_gap"]


def test_dropped_names_every_candidate_and_check() -> None:
    """The sentence names who may not ship, and why; none is said where nothing was dropped."""
    assert dropped(make_info()) is None
    info = make_info(dropped_by=["learning", "uplift"])
    assert dropped(info) == "The PPO policy may not ship: learning, uplift"
