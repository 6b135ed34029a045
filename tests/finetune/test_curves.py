import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from job.finetune.curves import ITERATION_TAGS, Curves, append_row, iterations, read_rows


def points(folder):
    """Read back every scalar: tag -> [(wall time, step, value)]."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.wall_time, e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_rows_are_shown_and_kept(tmp_path):
    """Finite scalars are kept; those that the logger hides from TensorBoard are not shown."""
    curves = Curves(tmp_path)
    excluded = {"time/total_timesteps": ("tensorboard",), "custom/gt_dice": ("stdout",), "train/loss": None}
    curves.write(
        {"time/total_timesteps": 32, "custom/gt_dice": 0.5, "train/loss": math.nan}, excluded, step=32
    )
    curves.close()
    assert [row["scalars"] for row in curves.rows] == [{"time/total_timesteps": 32.0, "custom/gt_dice": 0.5}]
    assert [(step, value) for _, step, value in points(tmp_path)["custom/gt_dice"]] == [(32, 0.5)]
    assert set(points(tmp_path)) == {"custom/gt_dice"}


def test_starting_again_from_kept_rows_forgets_the_rest(tmp_path):
    """One event file remains, with the kept points at their own times, and new points follow."""
    first = Curves(tmp_path)
    for step in (10, 20, 30):
        first.write({"train/loss": step / 8}, {"train/loss": None}, step=step)
    first.close()
    before = points(tmp_path)["train/loss"]
    again = Curves(tmp_path)
    again.replay(first.rows[:2])
    again.write({"train/loss": 9.0}, {"train/loss": None}, step=25)
    again.close()
    assert len(list(tmp_path.iterdir())) == 1
    after = points(tmp_path)["train/loss"]
    assert after[:2] == before[:2]
    assert [(step, value) for _, step, value in after] == [(10, 1.25), (20, 2.5), (25, 9.0)]


def test_the_history_forgets_rows_after_the_boundary(tmp_path):
    """Rows come back bit for bit; later ones are gone for good; too few are an error."""
    path = tmp_path / "deep" / "history.jsonl"
    rows = [
        {"step": i, "wall_time": i / 3, "scalars": {"train/loss": 0.1 * i}, "hidden": []} for i in range(4)
    ]
    for row in rows:
        append_row(path, row)
    assert read_rows(path, 3) == rows[:3]
    append_row(path, rows[0])
    assert read_rows(path, 4) == [*rows[:3], rows[0]]
    with pytest.raises(ValueError, match="4 rows of 5"):
        read_rows(path, 5)
    assert read_rows(tmp_path / "none.jsonl", 0) == []


def test_iterations_bear_the_records_names():
    """Figures have the names of training_info.json, entropy in nats, and NaN where there is none."""
    (iteration,) = iterations([{"scalars": {"train/entropy_loss": -2.5, "custom/gt_dice": 0.75}}])
    assert iteration.pop("entropy") == 2.5
    assert iteration.pop("gt_dice") == 0.75
    assert all(math.isnan(value) for value in iteration.values())
    assert set(ITERATION_TAGS) == {
        *("timesteps", "ep_rew_mean", "gt_dice", "reward_net_score", "best_reward", "entropy"),
        *("explained_variance", "value_loss", "policy_gradient_loss", "approx_kl", "clip_fraction", "fps"),
    }
