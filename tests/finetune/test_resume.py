import math
from contextlib import contextmanager

import numpy as np
import pytest
from stable_baselines3.common.save_util import load_from_zip_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from job.errors import Interrupted
from job.finetune.env import TableRewards
from job.finetune.resume import identity_of

SETTINGS = {"total_timesteps": 160, "n_epochs": 3}


def parameters(folder, name="final_model.zip"):
    """Return actor, critic and optimiser of an SB3 zip as flat arrays."""
    _, found, _ = load_from_zip_file(folder / name, load_data=False)
    arrays = {f"policy.{name}": values.numpy() for name, values in found["policy"].items()}
    for index, moments in found["policy.optimizer"]["state"].items():
        arrays |= {f"optimiser.{index}.{key}": values.numpy() for key, values in moments.items()}
    return arrays


def curves(folder):
    """Return every TensorBoard point but the speed's."""
    events = EventAccumulator(str(folder / "logs" / "PPO_1"))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag != "time/fps"
    }


def figures(result):
    """Return the iterations without the speed."""
    return [{name: value for name, value in i.items() if name != "fps"} for i in result.iterations]


def assert_equal(folder, result, expected_folder, expected):
    """Compare two trainings by bits: models, checkpoints, figures and curves."""
    for name in ("final_model.zip", *expected.checkpoints):
        found, wanted = parameters(folder, name), parameters(expected_folder, name)
        assert set(found) == set(wanted)
        for key, values in wanted.items():
            np.testing.assert_array_equal(found[key], values, err_msg=f"{name}: {key}")
    assert figures(result) == figures(expected)
    assert result.checkpoints == expected.checkpoints
    assert result.total_timesteps == expected.total_timesteps
    assert curves(folder) == curves(expected_folder)


@pytest.mark.parametrize("stops", [(2,), (32,), (34,), (50,), (64,), (130,), (160,), (20, 70, 110), (66, 66)])
def test_an_interrupted_training_ends_with_the_same_bits(world, tmp_path, stops_at, stops):
    """Stopped in a rollout, at a boundary, at the end, repeatedly: model, curves, checkpoints are equal.

    Of an interrupted attempt only the resume folder survives.
    """
    expected = world.train(tmp_path / "whole", SETTINGS)
    resume_folder = tmp_path / "resume"
    for attempt, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            world.train(
                tmp_path / f"lost {attempt}", SETTINGS, progress=stops_at(stop), resume_folder=resume_folder
            )
    progress = stops_at(10**9)
    result = world.train(tmp_path / "last", SETTINGS, progress=progress, resume_folder=resume_folder)
    assert (progress.totals, progress.done) == ([160], 160)
    assert_equal(tmp_path / "last", result, tmp_path / "whole", expected)


def test_a_resume_takes_only_the_steps_that_were_lost(world, tmp_path, stops_at):
    """Rewards of finished rollouts are not asked for again."""
    asked = []

    def outcome(image, action):
        asked.append(image)
        return source(image, action)

    scores_NK = world.train_scores_NK
    source = TableRewards(scores_NK, scores_NK, scores_NK)
    with pytest.raises(Interrupted):
        world.train(tmp_path, SETTINGS, outcome=outcome, progress=stops_at(140))
    assert len(asked) == 140
    world.train(tmp_path, SETTINGS, outcome=outcome)
    assert len(asked) == 140 + 160 - 128


@pytest.mark.parametrize("question", [1, 7, 30])
def test_a_stop_within_an_update_is_noticed_and_costs_its_rollout(world, tmp_path, question):
    """An update of long rollouts takes minutes: it is left between two minibatches, and made again."""

    class Asked:
        def __init__(self):
            self.within_updates = 0

        @contextmanager
        def task(self, what, total, unit):
            yield self

        def advance(self, steps=1, **figures):
            self.within_updates += steps == 0
            if self.within_updates == question:
                raise Interrupted("stop requested")

    expected = world.train(tmp_path / "whole", SETTINGS)
    folder = tmp_path / "parts"
    with pytest.raises(Interrupted):
        world.train(folder, SETTINGS, progress=Asked())
    assert_equal(folder, world.train(folder, SETTINGS), tmp_path / "whole", expected)


def test_a_finished_training_called_again_takes_no_step(world, tmp_path):
    """The last boundary is the end: calling again writes the same result without a step."""
    expected = world.train(tmp_path, SETTINGS)
    before = parameters(tmp_path)

    def never(image, action):
        raise AssertionError("a finished training took a step")

    again = world.train(tmp_path, SETTINGS, outcome=never)
    assert figures(again) == figures(expected)
    for name, values in parameters(tmp_path).items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize(
    "change",
    [
        "seed",
        "settings",
        "prior",
        "state cut",
        "history cut",
        "history garbled",
        "checkpoint lost",
        "folder lost",
    ],
)
def test_a_boundary_that_does_not_fit_is_not_taken(world, tmp_path, stops_at, change):
    """A state of another training, damaged or incomplete: training starts over and ends as if it were new."""
    folder = tmp_path / "parts"
    with pytest.raises(Interrupted):
        world.train(folder, SETTINGS, progress=stops_at(100))
    settings, arguments = dict(SETTINGS), {}
    state, history = folder / "resume" / "training.safetensors", folder / "resume" / "history.jsonl"
    match change:
        case "seed":
            arguments["seed"] = 8
        case "settings":
            settings["ent_coef"] = 0.2
        case "prior":
            arguments["prior_K"] = world.train_scores_NK[:3].mean(axis=0)
        case "state cut":
            state.write_bytes(state.read_bytes()[:-100])
        case "history cut":
            history.write_text(history.read_text().splitlines()[0])
        case "history garbled":
            history.write_text(history.read_text().replace("{", "[", 1))
        case "checkpoint lost":
            (folder / "resume" / "checkpoints" / "sa2va_rl_40_steps.zip").unlink()
        case "folder lost":
            state.unlink()
            history.unlink()
    progress = stops_at(10**9)
    result = world.train(folder, settings, progress=progress, **arguments)
    expected = world.train(tmp_path / "whole", settings, **arguments)
    assert_equal(folder, result, tmp_path / "whole", expected)


def test_a_fresh_start_removes_what_another_training_left(world, tmp_path):
    """Checkpoints and curves of an earlier, longer training do not stay among those of the next."""
    world.train(tmp_path, SETTINGS)
    result = world.train(tmp_path, {"total_timesteps": 64})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["sa2va_rl_40_steps.zip"]
    assert result.checkpoints == ["checkpoints/sa2va_rl_40_steps.zip"]
    assert max(step for points in curves(tmp_path).values() for step, _ in points) == 64
    assert all(math.isfinite(i["value_loss"]) for i in result.iterations)


def test_identity_tells_trainings_apart():
    """Settings, seed, actions and every array count, and where an array stands among them."""
    one, two = np.zeros(3, np.float32), np.ones(3, np.float32)
    identities = [
        identity_of({"a": 1}, 0, ["x"], one, two),
        identity_of({"a": 2}, 0, ["x"], one, two),
        identity_of({"a": 1}, 1, ["x"], one, two),
        identity_of({"a": 1}, 0, ["y"], one, two),
        identity_of({"a": 1}, 0, ["x"], two, one),
        identity_of({"a": 1}, 0, ["x"], one, None),
        identity_of({"a": 1}, 0, ["x"], one.astype(np.float64), two),
    ]
    assert len(set(identities)) == len(identities)
    assert identities[0] == identity_of({"a": 1}, 0, ["x"], one, two)
