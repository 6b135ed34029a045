from job.report.others import other_datasets
from tests.report.factory import make_info


def test_a_further_dataset_has_its_own_verdict_and_ladder() -> None:
    """Its words are those of its own verdict, and its place shows no password."""
    info = make_info("improved")
    (other,) = other_datasets(info.results.other_datasets)
    assert other.words.headline == "Inconclusive"
    assert "hunter2" not in other.place
    assert other.ladder is not None
    assert [row.cells[0] for row in other.ladder.rows if row.is_marked] == ["PPO policy"]


def test_none_is_none() -> None:
    """Without further datasets there is nothing to lay out."""
    assert other_datasets([]) == []
