from dataclasses import replace

from job.report.strips import fooled, probe_chart, probe_name, seed_chart, seeds_sentence
from job.reward.probes import Probe
from tests.report.factory import make_info


def test_predicted_and_true_stand_on_one_scale() -> None:
    """A mask has a dot at what is predicted and a diamond at what is true, in percents of 0 to 1."""
    chart = probe_chart([Probe("dilation", 2, 0.66, 0.61, 16)])
    assert chart is not None
    row = chart.rows[0]
    assert {mark.shape: mark.at for mark in row.marks} == {"dot": 66.0, "diamond": 61.0}
    assert row.ends == (61.0, 66.0)
    assert (row.name, row.figures) == ("dilation 2 px", "0.66 · 0.61")
    assert [(tick.at, tick.label) for tick in chart.ticks][1] == (20.0, "0.2")
    assert {shape for shape, _ in chart.keys} == {"dot", "diamond"}
    assert probe_chart([]) is None


def test_every_probe_has_a_name_of_its_own() -> None:
    """Amounts are part of the name, with their unit."""
    probes = make_info().reward.probes
    assert len({probe_name(probe) for probe in probes}) == len(probes)
    assert probe_name(Probe("islands", 50, 0.5, 0.5, 3)) == "islands 50 specks"


def test_the_mask_that_is_praised_most_beyond_its_worth_is_named() -> None:
    """Overrating counts, underrating does not."""
    probes = make_info().reward.probes
    assert fooled(probes).startswith("It overrates “islands 200 specks” most: predicted 0.810, true 0.580")
    assert fooled([replace(probe, predicted=0.0) for probe in probes]) == "It overrates none of them."
    assert fooled([]) == ""


def test_seeds_stand_in_the_order_of_their_dice() -> None:
    """Dots lie further right for a better Dice, and the candidate's is marked."""
    info = make_info()
    chart = seed_chart(info)
    assert chart is not None
    assert [row.marks[0].at for row in chart.rows] == sorted(row.marks[0].at for row in chart.rows)
    assert [(row.name, row.tag) for row in chart.rows if row.is_marked] == [("Seed 1", "ships")]
    dropped = seed_chart(make_info(dropped_by=["learning"]))
    assert dropped is not None
    assert [row.tag for row in dropped.rows if row.tag] == ["candidate"]


def test_one_seed_has_no_spread() -> None:
    """A single training makes no chart, and the sentence says what is not known; none makes neither."""
    info = make_info(n_seeds=1)
    assert seed_chart(info) is None
    assert "was not measured" in seeds_sentence(info.finetune.seeds)
    assert seeds_sentence([]) == ""
    assert "0.863 to 0.869" in seeds_sentence(make_info().finetune.seeds)
