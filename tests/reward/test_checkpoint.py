"""An interrupted training of the reward network goes on and ends with the bits of an uninterrupted one."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from job.errors import Interrupted
from job.progress import SILENT, Progress, Task
from job.reward import checkpoint
from job.reward.examples import LabelledImages
from job.reward.network import RewardNetwork, RewardNetworkConfig
from job.reward.network_file import scratch
from job.reward.training import RewardFit, fit
from job.spec.reward import RewardNetworkSpec
from tests.questions import Questions
from tests.reward.blocks import with_masks

Make = Callable[..., LabelledImages]
Fit = Callable[..., RewardFit]
# Four images, 2 x 2 for the folds: 3 x (4 + 2 + 2) steps, the first 12 of the final network.
SETTINGS = RewardNetworkSpec(epochs=3, batch_size=8, learning_rate=3e-3, folds=2)
STEPS, STEPS_OF_FINAL = 24, 12


class Follows:
    """A Progress that counts the steps of training, and asks to stop at the n-th."""

    def __init__(self, stop_at: float = math.inf) -> None:
        self.steps = 0
        self.taken_over = 0
        self._stop_at = stop_at

    @contextmanager
    def task(self, what: str, total: int, unit: str) -> Iterator[Task]:
        """Follow the training alone."""
        if what == "reward network":
            yield self
        else:
            with SILENT.task(what, total, unit) as task:
                yield task

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Tell steps that were trained, which come with figures, from those that were taken over."""
        if not figures:
            self.taken_over += steps
            return
        self.steps += steps
        if self.steps >= self._stop_at:
            raise Interrupted("stop")


@pytest.fixture
def fitted(labelled: Make, small: RewardNetworkConfig, tmp_path: Path) -> Fit:
    """Call `fit` on four images, with the test's folder as scratch unless told otherwise."""

    def call(progress: Progress = SILENT, **changed: object) -> RewardFit:
        arguments = {"settings": SETTINGS, "start": scratch(0, small), "seed": 0, "scratch": tmp_path}
        train = changed.pop("train", None) or labelled(0, 4)
        validation = changed.pop("validation", None) or labelled(4, 2)
        return fit(train, validation, progress=progress, **{**arguments, **changed})  # type: ignore[arg-type]

    return call


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is kept."""
    monkeypatch.setattr(checkpoint, "SAVE_EVERY_S", 0.0)


def bits(network: RewardNetwork) -> dict[str, bytes]:
    """Return a network's weights as they lie in memory."""
    return {name: values.numpy().tobytes() for name, values in network.state_dict().items()}


def assert_same(found: RewardFit, expected: RewardFit) -> None:
    """Compare two results bit for bit."""
    for one, two in zip([found.final, *found.folds], [expected.final, *expected.folds], strict=True):
        assert bits(one) == bits(two)
    assert repr(found.history) == repr(expected.history)  # NaN is not equal to itself
    assert found.best_epoch == expected.best_epoch
    assert found.fold_epochs == expected.fold_epochs
    assert found.validation == expected.validation


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize(
    "stops",
    [
        pytest.param([1], id="at the first step"),
        pytest.param([4], id="at the end of an epoch"),
        pytest.param([6], id="within an epoch"),
        pytest.param([12], id="at the end of the final network"),
        pytest.param([13, 3, 5], id="three times"),
        pytest.param([24], id="at the last step"),
    ],
)
def test_an_interrupted_training_ends_with_the_same_bits(fitted: Fit, stops: list[int]) -> None:
    """Wherever it was stopped, and no step that was kept is taken again."""
    expected = fitted(scratch=None)
    for stop in stops:
        with pytest.raises(Interrupted):
            fitted(Follows(stop))
    torch.manual_seed(99)  # the global generators play no part
    np.random.seed(99)  # noqa: NPY002 - it is the global state that must not matter
    last = Follows()
    assert_same(fitted(last), expected)
    assert last.taken_over == sum(stops)
    assert last.steps == STEPS - sum(stops)


def test_a_stop_is_noticed_while_nothing_is_trained(fitted: Fit, tmp_path: Path) -> None:
    """While examples are made, digested, predicted: stopped at any question, it ends with the same bits."""
    questions = Questions()
    expected = fitted(questions, scratch=None)
    kept = Questions()
    fitted(kept, scratch=tmp_path / "whole")
    assert kept.asked > questions.asked > 2 * STEPS
    for question in range(1, kept.asked, kept.asked // 5):
        scratch_folder = tmp_path / str(question)
        with pytest.raises(Interrupted):
            fitted(Questions(stop_at=question), scratch=scratch_folder)
        assert_same(fitted(scratch=scratch_folder), expected)


def test_scratch_changes_no_bit(fitted: Fit) -> None:
    """Keeping the state is looking on."""
    assert_same(fitted(), fitted(scratch=None))


def test_finished_networks_are_kept_whenever_they_end(
    fitted: Fit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where no step is due, what a network has learned is written once, at its end."""
    monkeypatch.setattr(checkpoint, "SAVE_EVERY_S", math.inf)
    expected = fitted(scratch=None)
    with pytest.raises(Interrupted):
        fitted(Follows(STEPS_OF_FINAL - 1))
    assert not list(tmp_path.iterdir())
    with pytest.raises(Interrupted):
        fitted(Follows(STEPS - 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final.safetensors", "fold_0.safetensors"]
    last = Follows()
    assert_same(fitted(last), expected)
    assert last.steps == 6


def test_a_finished_training_called_again_takes_no_step(fitted: Fit) -> None:
    """All is read back, the kept epochs' weights and every figure."""
    first, again = fitted(), Follows()
    assert_same(fitted(again), first)
    assert (again.steps, again.taken_over) == (0, STEPS)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize(
    "changed",
    [
        "seed", "start", "a truth", "a mask", "an image", "a validation truth",
        {"epochs": 2}, {"batch_size": 16}, {"learning_rate": 1e-3},
    ],
    ids=str,
)  # fmt: skip
def test_what_another_training_left_is_not_taken(
    fitted: Fit, labelled: Make, small: RewardNetworkConfig, tmp_path: Path, changed: str | dict[str, float]
) -> None:
    """Other settings, another seed, start or data begin anew and end as if the folder had been empty."""
    with pytest.raises(Interrupted):
        fitted(Follows(7))
    train, validation = labelled(0, 4), labelled(4, 2)
    other: dict[str, dict[str, object]] = {
        "seed": {"seed": 1},
        "start": {"start": scratch(1, small)},
        "a truth": {"train": replace(train, truths=[~train.truths[0], *train.truths[1:]])},
        "a mask": {"train": with_masks(train, lambda i, masks: masks ^ (i == 0))},
        "an image": {"train": replace(train, images=[255 - train.images[0], *train.images[1:]])},
        "a validation truth": {
            "validation": replace(validation, truths=[~validation.truths[0], validation.truths[1]])
        },
    }  # fmt: skip
    arguments = (
        other[changed] if isinstance(changed, str) else {"settings": SETTINGS.model_copy(update=changed)}
    )
    again = Follows()
    found = fitted(again, **arguments)
    assert again.taken_over == 0
    assert_same(found, fitted(scratch=None, **arguments))


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.999, "half of it"])
def test_a_damaged_file_is_no_obstacle(fitted: Fit, tmp_path: Path, place: float | str) -> None:
    """With a byte changed anywhere, or cut short, the network is trained anew: the same bits, more time."""
    with pytest.raises(Interrupted):
        fitted(Follows(7))
    path = tmp_path / "final.safetensors"
    data = bytearray(path.read_bytes())
    if isinstance(place, str):
        del data[len(data) // 2 :]
    else:
        data[int(place * len(data))] ^= 0xFF
    path.write_bytes(data)
    again = Follows()
    assert_same(fitted(again), fitted(scratch=None))
    assert again.taken_over == 0
