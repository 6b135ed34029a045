"""Training: cross-fitted without leaks, reproducible, never worse than its start, and better than a guess."""

import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from job.data.on_demand import OnDemand
from job.errors import InputError, Interrupted, InvalidResult
from job.progress import Task
from job.reward.examples import LabelledImages, prepare
from job.reward.losses import balance
from job.reward.network import RewardNetwork, RewardNetworkConfig
from job.reward.network_file import scratch
from job.reward.training import RewardFit, assign_folds, fit
from job.spec.reward import RewardNetworkSpec
from tests.reward.blocks import all_masks, with_masks

Make = Callable[..., LabelledImages]
SETTINGS = RewardNetworkSpec(epochs=1, batch_size=32, learning_rate=3e-3, folds=2)


def equal(first: RewardNetwork, second: RewardNetwork) -> bool:
    """Whether two networks have the same weights, bit for bit."""
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_network_never_learns_from_its_own_fold(labelled: Make, small: RewardNetworkConfig) -> None:
    """Poisoned truths and masks of one fold change every network but the one that judges this fold."""
    train, validation = labelled(0, 6), labelled(6, 2)
    start = scratch(0, small)
    clean = fit(train, validation, settings=SETTINGS, start=start, seed=0)
    poisoned_fold = clean.fold_of[0]
    is_poisoned = [fold == poisoned_fold for fold in clean.fold_of]
    poisoned = replace(
        train,
        truths=[~truth if bad else truth for truth, bad in zip(train.truths, is_poisoned, strict=True)],
        images=[255 - image if bad else image for image, bad in zip(train.images, is_poisoned, strict=True)],
    )
    poisoned = with_masks(poisoned, lambda i, masks: ~masks if is_poisoned[i] else masks)
    spoilt = fit(poisoned, validation, settings=SETTINGS, start=start, seed=0)
    assert spoilt.fold_of == clean.fold_of
    assert equal(spoilt.folds[poisoned_fold], clean.folds[poisoned_fold])
    assert not equal(spoilt.folds[1 - poisoned_fold], clean.folds[1 - poisoned_fold])
    assert clean.fold_epochs == [1, 1]  # otherwise equality would prove nothing
    judged = clean.judge_for(0)(train.images[0], all_masks(train, 0))
    assert np.array_equal(judged, spoilt.judge_for(0)(train.images[0], all_masks(train, 0)))


@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=12),
    n_folds=st.integers(2, 6),
    seed=st.integers(0, 2**16),
)
def test_folds_keep_patients_together_and_sizes_even(counts: list[int], n_folds: int, seed: int) -> None:
    """A patient's images share a fold, no fold is empty, and sizes differ by at most one patient's images."""
    patients = [f"p{p}" for p, count in enumerate(counts) for _ in range(count)]
    folds = assign_folds(patients, n_folds, seed)
    sizes = Counter(folds)
    assert sorted(sizes) == list(range(min(n_folds, len(counts))))
    assert len({(patient, fold) for patient, fold in zip(patients, folds, strict=True)}) == len(counts)
    assert max(sizes.values()) - min(sizes.values()) <= max(counts)


def test_one_patient_cannot_be_cross_fitted(labelled: Make, small: RewardNetworkConfig) -> None:
    """The error says what is missing; without training there is nothing to cross-fit."""
    train, validation = labelled(0, 3, patients=1), labelled(3, 1)
    with pytest.raises(InputError, match="2 patients"):
        fit(train, validation, settings=SETTINGS, start=scratch(0, small), seed=0)
    untrained = SETTINGS.model_copy(update={"epochs": 0})
    assert fit(train, validation, settings=untrained, start=scratch(0, small), seed=0).fold_of == [0, 0, 0]


def test_no_validation_images_are_an_input_error(labelled: Make, small: RewardNetworkConfig) -> None:
    """Without them no epoch could be chosen; the advice names the field."""
    with pytest.raises(InputError, match="validation images") as caught:
        fit(labelled(0, 4), labelled(4, 0), settings=SETTINGS, start=scratch(0, small), seed=0)
    assert "data.split" in caught.value.advice


def test_no_epochs_leave_the_start_as_it_is(labelled: Make, small: RewardNetworkConfig) -> None:
    """Every network is the start, whose quality on validation is reported."""
    start = scratch(0, small)
    untrained = SETTINGS.model_copy(update={"epochs": 0})
    result = fit(labelled(0, 4), labelled(4, 2), settings=untrained, start=start, seed=0)
    assert all(equal(network, start) for network in [result.final, *result.folds])
    assert result.best_epoch == 0
    assert [row["epoch"] for row in result.history] == [0.0]
    assert result.history[0]["validation_mse"] == pytest.approx(result.validation.mse)


def test_equal_inputs_give_equal_weights(labelled: Make, small: RewardNetworkConfig) -> None:
    """Twice the same is bit for bit the same, another seed is not, and the start is not touched."""
    train, validation, start = labelled(0, 4), labelled(4, 2), scratch(0, small)
    results: list[RewardFit] = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(results))  # the global generator plays no part
        np.random.seed(len(results))  # noqa: NPY002 - it is the global state that must not matter
        results.append(fit(train, validation, settings=SETTINGS, start=start, seed=seed))
    assert equal(results[0].final, results[1].final)
    assert results[0].history[1] == results[1].history[1]
    assert not equal(results[0].final, results[2].final)
    assert equal(start, scratch(0, small))


def test_weights_do_not_depend_on_the_number_of_threads(labelled: Make, small: RewardNetworkConfig) -> None:
    """Side by side on two threads or one after the other, weights are the same; PyTorch's setting stays."""
    results = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        results.append(
            fit(labelled(0, 4), labelled(4, 2), settings=SETTINGS, start=scratch(0, small), seed=0)
        )
        assert torch.get_num_threads() == n_threads
    assert all(
        equal(one, two)
        for one, two in zip(
            [results[0].final, *results[0].folds], [results[1].final, *results[1].folds], strict=True
        )
    )
    assert results[0].history[1:] == results[1].history[1:]


def test_training_that_only_harms_keeps_the_start(labelled: Make, small: RewardNetworkConfig) -> None:
    """Truths that contradict validation make every epoch worse: epoch 0 wins for all networks."""
    start = fit(
        labelled(0, 6),
        labelled(6, 3),
        settings=SETTINGS.model_copy(update={"epochs": 4}),
        start=scratch(0, small),
        seed=0,
    ).final
    train = labelled(0, 6)
    upside_down = replace(train, truths=[~truth for truth in train.truths])
    result = fit(upside_down, labelled(6, 3), settings=SETTINGS, start=start, seed=0)
    assert result.best_epoch == 0
    assert result.fold_epochs == [0, 0]
    assert equal(result.final, start)


def test_learning_beats_predicting_the_mean(labelled: Make, small: RewardNetworkConfig) -> None:
    """From scratch, in seconds: a positive R2, ranks and errors on images that it never saw."""
    settings = RewardNetworkSpec(epochs=16, batch_size=32, learning_rate=1e-2, folds=2)
    result = fit(labelled(0, 16), labelled(16, 12), settings=settings, start=scratch(0, small), seed=0)
    true = _true(labelled(16, 12))
    assert result.validation.r2 > 0.3
    assert result.validation.mse < true.var()
    assert result.validation.spearman > 0.5
    assert result.best_epoch > 0
    assert result.history[result.best_epoch]["validation_mse"] == min(
        r["validation_mse"] for r in result.history
    )


def test_divergence_is_an_invalid_result(labelled: Make, small: RewardNetworkConfig) -> None:
    """Steps so long that the next answer overflows: exit code 5 with epoch, step and advice."""
    settings = SETTINGS.model_copy(update={"epochs": 2, "learning_rate": 1e30})
    with pytest.raises(InvalidResult, match=r"diverged in epoch 1 of 2: .* (nan|inf)") as caught:
        fit(labelled(0, 4), labelled(4, 2), settings=settings, start=scratch(0, small), seed=0)
    assert caught.value.exit_code == 5
    assert "learning_rate (now 1e+30)" in caught.value.advice


def test_the_longest_steps_that_a_spec_may_ask_for_end_with_numbers(
    labelled: Make, small: RewardNetworkConfig
) -> None:
    """Gradients are clipped and outputs bounded: the best epoch, or the start, is what stays."""
    settings = SETTINGS.model_copy(update={"epochs": 3, "learning_rate": 1.0})
    result = fit(labelled(0, 4), labelled(4, 2), settings=settings, start=scratch(0, small), seed=0)
    mse = [row["validation_mse"] for row in result.history]
    assert np.isfinite(mse).all()
    assert result.validation.mse == pytest.approx(min(mse))


def test_a_start_that_answers_with_no_numbers_is_an_invalid_result(
    labelled: Make, small: RewardNetworkConfig
) -> None:
    """With or without epochs to train: nothing could be compared with it, or published of it."""
    start = scratch(0, small)
    with torch.no_grad():
        start.style.bias.fill_(torch.nan)
    for epochs in (0, 1):
        settings = SETTINGS.model_copy(update={"epochs": epochs})
        with pytest.raises(InvalidResult, match="MSE is nan") as caught:
            fit(labelled(0, 4), labelled(4, 2), settings=settings, start=start, seed=0)
        assert "reward.network.uri" in caught.value.advice


def test_a_stop_request_is_noticed_within_an_epoch(labelled: Make, small: RewardNetworkConfig) -> None:
    """Progress ticks at every step: what it raises once ends the training of all networks."""

    class Stop:
        """Asks to stop at the third step of training."""

        def __init__(self) -> None:
            self.steps = 0

        @contextmanager
        def task(self, what: str, total: int, unit: str) -> Iterator[Task]:
            """Count the steps of the training task alone."""
            yield self if what == "reward network" else _Ignored()

        def advance(self, steps: int = 1, **figures: float) -> None:
            """Raise at the third call."""
            self.steps += steps
            if self.steps == 3:
                raise Interrupted("stop")

    stop = Stop()
    settings = SETTINGS.model_copy(update={"batch_size": 1})
    torch.set_num_threads(2)
    with pytest.raises(Interrupted):
        fit(labelled(0, 4), labelled(4, 2), settings=settings, start=scratch(0, small), seed=0, progress=stop)
    assert stop.steps == 3


def test_examples_hold_what_was_scored(labelled: Make) -> None:
    """Dice is counted at full size, the actions' masks come first, the truth last."""
    train = labelled(0, 4, size=96)
    examples = prepare(train, 48, [0, 0, 1, 1], seed=0, memory_bytes=2**30)
    for i, example in enumerate(examples):
        assert example.n_actions == 5
        assert np.allclose(example.dice_M[:5], _true(train)[i])
        assert example.dice_M[-1] == 1
        assert example.masks_MHW.shape == (len(example.dice_M), 48, 48)
        boxes = all_masks(train, i).reshape(5, 48, 2, 48, 2).mean((2, 4))
        assert np.allclose(example.coverage(slice(0, 5)).numpy(), boxes, atol=0.5 / 255)
        assert np.allclose(
            example.truth_HW.numpy(), example.coverage(slice(-1, None))[0].numpy(), atol=0.5 / 255
        )


def test_memory_bounds_the_masks_of_every_image(labelled: Make) -> None:
    """With little memory each image keeps the same few actions."""
    validation = labelled(0, 3, size=64)
    examples = prepare(validation, 64, None, seed=0, memory_bytes=3 * 64 * 64 * 3, fewest_masks=1)
    everything = prepare(validation, 64, None, seed=0, memory_bytes=2**30)
    assert [len(example.dice_M) for example in examples] == [3, 3, 3]
    kept = [
        np.flatnonzero(np.isin(all_.dice_M, some.dice_M))
        for all_, some in zip(everything, examples, strict=True)
    ]
    assert all(np.array_equal(rows, kept[0]) for rows in kept)


@pytest.mark.parametrize("memory_bytes", [2**30, 4 * 48 * 48 * 9])
def test_masks_may_come_in_any_blocks(labelled: Make, memory_bytes: int) -> None:
    """One after the other, all at once, in any order, and where only some are kept: the same bits."""
    ways = [[(0, 1, 2, 3, 4)], [(4,), (2,), (0,), (1,), (3,)], [(1, 3), (0, 2, 4)]]
    made = [
        prepare(labelled(0, 4, size=96, blocks=blocks), 48, [0, 0, 1, 1], seed=0, memory_bytes=memory_bytes)
        for blocks in ways
    ]
    assert len(made[0][0].dice_M) == (9 if memory_bytes < 2**30 else 19)
    assert len({tuple(example.digest for example in examples) for examples in made}) == 1


def test_no_more_than_a_few_images_are_held_at_a_time(labelled: Make) -> None:
    """What is made when it is asked for is let go: of 24 more images no more than are on their way are held.

    That is eight in three queues, and as many as may be at work; how many there are depends on the moment.
    """
    train = labelled(0, 36, size=256)
    peaks = []
    for n in (12, 36):
        some = replace(
            train,
            images=OnDemand(n, lambda i: train.images[i].copy()),
            truths=OnDemand(n, lambda i: train.truths[i].copy()),
            patients=train.patients[:n],
            sizes=train.sizes[:n],
        )
        tracemalloc.start()
        prepare(some, 16, [0] * n, seed=0, memory_bytes=2**30)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 12 * (train.images[0].nbytes + train.truths[0].nbytes)


def test_rare_qualities_weigh_more() -> None:
    """Weights average 1 and fall with the root of how common a quality is."""
    weights = balance([np.array([0.85] * 12), np.array([0.85] * 4 + [0.15])])
    assert np.concatenate(weights).mean() == pytest.approx(1)
    assert weights[1][-1] / weights[0][0] == pytest.approx(4)


class _Ignored:
    def advance(self, steps: int = 1, **figures: float) -> None:
        pass


def _true(images: LabelledImages) -> np.ndarray:
    """Dice `[N, K]` by plain set sizes."""
    rows = []
    for i, truth in enumerate(images.truths):
        masks = all_masks(images, i)
        sizes = masks.sum((1, 2)) + truth.sum()
        rows.append(2 * (masks & truth).sum((1, 2)) / sizes)
    return np.array(rows)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_an_accelerator_learns_as_well_in_bfloat16(labelled: Make, small: RewardNetworkConfig) -> None:
    """Half precision and another order of channels cost no quality; the network comes back as any other."""
    train, validation = labelled(0, 8), labelled(8, 4)
    settings, start = SETTINGS.model_copy(update={"epochs": 4}), scratch(0, small)
    of_cpu, of_cuda = (
        fit(train, validation, settings=settings, start=start, seed=0, device=device)
        for device in ("cpu", "cuda")
    )
    begun = of_cpu.history[0]["validation_mse"]
    least = [min(row["validation_mse"] for row in fitted.history) for fitted in (of_cpu, of_cuda)]
    assert least[0] < 0.8 * begun
    assert least[1] == pytest.approx(least[0], rel=0.15)
    for values in of_cuda.final.state_dict().values():
        assert values.device.type == "cpu"
        assert values.dtype == torch.float32
        assert values.is_contiguous()
