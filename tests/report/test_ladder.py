import math

from job.metrics.statistics import Uplift
from job.report.ladder import dot_plot, metric_table, numbers_behind, small_ladder
from job.reward.terms import METRICS
from tests.report.factory import make_info


def test_dots_stand_in_the_order_of_their_uplifts() -> None:
    """A better candidate's dot stands further right, and the no-op's on the line of today."""
    ladder = [row for row in make_info().results.ladder if row.candidate != "uniform"]
    plot = dot_plot(ladder)
    by_uplift = sorted(range(len(ladder)), key=lambda i: ladder[i].vs_noop.mean)
    places = [rung.at for rung in plot.rungs if rung.at is not None]
    assert len(places) == len(ladder)
    assert [plot.rungs[i].at for i in by_uplift] == sorted(places)
    assert next(rung.at for rung in plot.rungs if rung.candidate == "noop") == plot.zero
    assert all(rung.low <= at <= rung.high for rung, at in zip(plot.rungs, places, strict=True))
    assert [tick.label for tick in plot.ticks if tick.at == plot.zero] == ["today"]


def test_random_actions_do_not_squeeze_the_plot() -> None:
    """Far below all else they run off it: an arrow, no dot, and the others stand where they stood."""
    ladder = make_info().results.ladder
    others = [row for row in ladder if row.candidate != "uniform"]
    far = ladder[0].vs_noop
    lowest = type(far)(**{**vars(far), "mean": -0.9, "low": -0.95, "high": -0.85})
    uniform = ladder[0].model_copy(update={"candidate": "uniform", "vs_noop": lowest})
    plot = dot_plot([uniform, *others])
    assert plot.rungs[0].at is None
    assert plot.rungs[0].is_open_low
    assert [rung.at for rung in plot.rungs[1:]] == [rung.at for rung in dot_plot(others).rungs]


def test_an_infinite_interval_runs_off_the_plot() -> None:
    """One patient's interval has no ends: it is drawn from edge to edge and marked open."""
    plot = dot_plot(make_info(n_images=1).results.ladder)
    oracle = plot.rungs[-1]
    assert (oracle.low, oracle.high, oracle.is_open_low, oracle.is_open_high) == (0.0, 100.0, True, True)
    assert oracle.interval == "interval unbounded: one patient"


def test_a_huge_interval_does_not_squeeze_the_others() -> None:
    """An interval of two patients that is wider than all else is cut, so that dots stay apart."""
    ladder = make_info().results.ladder
    wide = Uplift(0.03, -3.0, 3.06, 0.3, 2, 2, 2, 0, 0, 0.5, "t")
    plot = dot_plot([*ladder[:-1], ladder[-1].model_copy(update={"vs_noop": wide})])
    assert plot.rungs[-1].is_open_low
    assert plot.rungs[-1].is_open_high
    assert plot.rungs[-2].at - plot.rungs[0].at > 10


def test_differences_that_do_not_matter_look_small() -> None:
    """Noise of a thousandth does not fill the plot."""
    row = make_info().results.ladder[1]
    tiny = Uplift(0.0005, 0.0001, 0.0009, 0.0001, 9, 9, 9, 0, 0, 0.004, "t")
    plot = dot_plot([row.model_copy(update={"vs_noop": tiny})])
    assert abs(plot.rungs[0].at - plot.zero) < 5


def test_an_interval_without_ends_is_a_dot() -> None:
    """Ends that are not numbers are drawn at the mean."""
    row = make_info().results.ladder[1]
    unknown = Uplift(0.01, math.nan, math.nan, math.nan, 2, 2, 2, 0, 0, 0.5, "t")
    rung = dot_plot([row.model_copy(update={"vs_noop": unknown})]).rungs[0]
    assert rung.low == rung.at == rung.high


def test_metric_table_marks_the_best_that_can_ship() -> None:
    """The best is the largest, of errors the smallest, and never what cannot ship or was dropped."""
    ladder = make_info(dropped_by=["reward_hacking"]).results.ladder
    table = metric_table(ladder, dot_plot(ladder))
    assert len(table.metrics) == len(METRICS)
    shippable = [row for row in ladder if row.can_ship and not row.dropped_by]
    for column, metric in enumerate(METRICS):
        pick = min if metric.startswith("betti") else max
        best = pick(row.test[metric].mean for row in shippable)
        marked = {rung.candidate for rung, cells in table.rows if cells[column].is_best}
        assert marked == {row.candidate for row in shippable if row.test[metric].mean == best}


def test_an_empty_ladder() -> None:
    """Nothing judged makes an empty plot and no table, not an error."""
    plot = dot_plot([])
    assert plot.rungs == ()
    assert metric_table([], plot).rows == ()
    assert numbers_behind([]) is None
    assert small_ladder([]) is None


def test_a_rung_says_why_it_could_not_ship() -> None:
    """What ships, what was dropped, what needs the truth and what is there to compare with are told apart."""
    plot = dot_plot(make_info(dropped_by=["reward_hacking", "learning"]).results.ladder)
    rungs = {rung.candidate: rung for rung in plot.rungs}
    assert rungs["ridge"].tag == "ships"
    assert rungs["ppo"].tag == "dropped: reward hacking, learning"
    assert rungs["oracle"].tag == "needs the truth"
    assert rungs["uniform"].tag == rungs["ppo_random_start"].tag == "for comparison"
    assert rungs["exact"].tag == ""
    assert {name for name, rung in rungs.items() if rung.is_apart} == {
        "uniform", "ppo", "ppo_random_start", "oracle",
    }  # fmt: skip


def test_numbers_behind_the_ladder_are_those_of_its_rows() -> None:
    """Regret, gap closed, left-out Dice and both p values stand in each candidate's row."""
    ladder = make_info().results.ladder
    table = numbers_behind(ladder)
    assert table is not None
    shown = {row.cells[0]: dict(zip(table.head, row.cells, strict=True)) for row in table.rows}
    by_name = {row.candidate: row for row in ladder}
    prompt = by_name["best_fixed_prompt"]
    assert shown["Best fixed prompt"]["Regret"] == f"{prompt.regret:.3f}"
    assert shown["Best fixed prompt"]["Left-out Dice"] == f"{prompt.left_out_dice:.3f}"
    assert shown["Oracle"]["Gap closed"] == "100 %"
    assert shown["Today (no-op)"]["p (sign-flip)"] == "1.000"
    assert (shown["Ridge regression"]["p (Holm)"], shown["Ridge regression"]["Left-out Dice"]) == ("–", "–")
    ppo = by_name["ppo"].vs_noop
    assert shown["PPO policy"]["Better / equal / worse"] == f"{ppo.wins} / {ppo.ties} / {ppo.losses}"
    assert [row.cells[0] for row in table.rows if row.is_marked] == ["PPO policy"]
