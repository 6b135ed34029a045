from job.report.measures import convention_table, protocol_list
from tests.report.factory import make_info


def test_every_convention_is_labelled_and_none_is_like_another() -> None:
    """Region, resolution and aggregation name a row; figures stand by metric, then candidate."""
    results = make_info().results
    table = convention_table(results.conventions, results.verdict.ships)
    assert table is not None
    labels = [(row.region, row.resolution, row.aggregation) for row in table.rows]
    assert len(set(labels)) == len(labels) == 8
    assert table.candidates == ("Today", "Best fixed", "Ships")
    assert table.metrics == ("Dice", "IoU", "Recall", "Precision")
    first = results.conventions[0].metrics
    assert table.rows[0].figures[1] == tuple(f"{first[c]['iou']:.3f}" for c in ("noop", "best_fixed", "ppo"))


def test_what_ships_is_named_even_if_it_is_today() -> None:
    """Where nothing better was found, today's column says that it ships."""
    results = make_info("no-improvement").results
    table = convention_table(results.conventions, results.verdict.ships)
    assert table is not None
    assert table.candidates == ("Today (ships)", "Best fixed")


def test_nothing_measured_is_no_table() -> None:
    """Without conventions there is neither table nor error."""
    assert convention_table([], "ppo") is None


def test_the_protocol_is_a_list_of_words() -> None:
    """Names are written as people write them."""
    assert protocol_list({"empty_masks": "score 1"}) == [("Empty masks", "score 1")]
