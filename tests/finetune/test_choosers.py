import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from job.actions import ActionSpace, PostProcess
from job.finetune.choosers import (
    RidgeChooser,
    best_fixed,
    best_fixed_postprocess,
    best_fixed_prompt,
    fit_ridge,
    left_out_best_fixed,
)

SPACE = ActionSpace(("a", "b", "c"), tuple(PostProcess(t) for t in (0.5, 0.3, 0.7, 0.9)))
QUARTERS = st.integers(0, 4).map(lambda value: value / 4)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (3, len(SPACE)), elements=QUARTERS))
def test_fixed_actions_are_the_best_of_their_kind(scores_NK):
    """Each fixed chooser takes the first action of the highest mean among those that it may take."""
    means = [sum(column) / 3 for column in scores_NK.T.tolist()]

    def first_best(allowed):
        return next(k for k in allowed if means[k] == max(means[other] for other in allowed))

    everything = range(len(SPACE))
    assert best_fixed(scores_NK) == first_best(everything)
    prompts = [k for k in everything if SPACE[k].postprocess == SPACE.postprocess[0]]
    assert best_fixed_prompt(scores_NK, 4) == first_best(prompts)
    postprocess = [k for k in everything if SPACE[k].prompt == SPACE.prompts[0]]
    assert best_fixed_postprocess(scores_NK, 4) == first_best(postprocess)


def test_unlabelled_images_do_not_count():
    """Rows of NaN are left out, and with no other row there is nothing to choose by."""
    scores_NK = np.array([[0.1, 0.3], [np.nan, np.nan], [0.9, 0.3]])
    assert best_fixed(scores_NK) == 0
    with pytest.raises(ValueError, match="no image with scores"):
        best_fixed(scores_NK[1:2])
    with pytest.raises(ValueError, match="multiple"):
        best_fixed_prompt(scores_NK, 3)
    with pytest.raises(ValueError, match="multiple"):
        best_fixed_postprocess(scores_NK, 3)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, (7, 4), elements=QUARTERS | st.just(np.nan)),
    st.lists(st.sampled_from("abc"), min_size=7, max_size=7),
)
def test_the_left_out_action_is_best_without_the_patient(scores_NK, patients):
    """Each image's action is the first of the highest mean over other patients' images with all scores."""
    chosen = left_out_best_fixed(scores_NK, patients)
    assert chosen.dtype == np.int64
    for i, patient in enumerate(patients):
        others = [
            row
            for row, other in zip(scores_NK.tolist(), patients, strict=True)
            if other != patient and not any(np.isnan(row))
        ]
        sums = [sum(column) for column in zip(*others, strict=True)] or [0.0]
        assert chosen[i] == sums.index(max(sums))


def test_the_left_out_action_owes_nothing_to_the_image_itself():
    """An action that is good on one patient alone is not chosen for that patient; lengths must agree."""
    scores_NK = np.array([[0.5, 0.9, 0.4], [0.5, 0.9, 0.4], [0.5, 0.1, 0.6], [0.5, 0.1, 0.6]])
    assert left_out_best_fixed(scores_NK, ["a", "a", "b", "b"]).tolist() == [2, 2, 1, 1]
    with pytest.raises(ValueError, match="patients"):
        left_out_best_fixed(scores_NK, ["a"])


def uplift(world, chooser):
    """Return the mean score of the new images under the chooser, less that of the best fixed action."""
    new = np.arange(world.n_train, len(world.scores_NK))
    actions = chooser.choose(world.observations_ND[new])
    return float(
        (world.scores_NK[new, actions] - world.scores_NK[new, best_fixed(world.train_scores_NK)]).mean()
    )


def fit(world):
    """Fit ridge on the world's training images."""
    return fit_ridge(world.observations_ND[: world.n_train], world.train_scores_NK)


def test_ridge_beats_the_best_fixed_action_where_images_differ(make_world):
    """Where the best action depends on what is observed, ridge gains on new images and rarely loses."""
    worlds = [make_world(seed, 0.03) for seed in range(20)]
    choosers = [fit(world) for world in worlds]
    uplifts = np.array([uplift(world, chooser) for world, chooser in zip(worlds, choosers, strict=True)])
    oracle = np.mean(
        [
            (w.scores_NK[20:].max(axis=1) - w.scores_NK[20:, best_fixed(w.train_scores_NK)]).mean()
            for w in worlds
        ]
    )
    assert uplifts.mean() > 0.5 * oracle
    assert (uplifts >= 0).all()
    assert sum(chooser.learned for chooser in choosers) >= 15


def test_ridge_falls_back_where_nothing_is_to_be_learnt(make_world):
    """Where one action is best for all images, ridge chooses just that one, almost always for every image."""
    worlds = [make_world(1000 + seed, 0.0) for seed in range(40)]
    choosers = [fit(world) for world in worlds]
    assert sum(chooser.learned for chooser in choosers) <= 8
    for world, chooser in zip(worlds, choosers, strict=True):
        assert uplift(world, chooser) > -0.003
        if not chooser.learned:
            chosen = chooser.choose(world.observations_ND)
            assert set(chosen.tolist()) == {best_fixed(world.train_scores_NK)}
            assert chooser.loo_gain == 0


def test_left_out_gain_is_that_of_refitting_without_each_patient(make_world):
    """The promised gain equals an explicit refit, by augmented least squares, for every patient left out."""
    world = make_world(3, 0.03)
    observations, scores = world.observations_ND[:20].astype(np.float64), world.train_scores_NK
    patients = np.array([f"p{i // 2 if i < 12 else i}" for i in range(20)])
    chooser = fit_ridge(world.observations_ND[:20], scores, patients.tolist())
    assert chooser.learned
    gains = scores - scores[:, [chooser.fixed]]
    total = 0.0
    for patient in np.unique(patients):
        rest = patients != patient
        mean = observations.mean(axis=0)
        # Centred on all images, as the fit is; the unpenalised intercept absorbs the difference.
        design = np.column_stack([observations[rest] - mean, np.ones(rest.sum())])
        damping = np.sqrt(chooser.penalty * 20) * np.eye(observations.shape[1], observations.shape[1] + 1)
        targets = np.vstack([gains[rest], np.zeros((observations.shape[1], gains.shape[1]))])
        coefficients = np.linalg.lstsq(np.vstack([design, damping]), targets, rcond=None)[0]
        predicted = np.column_stack([observations[~rest] - mean, np.ones((~rest).sum())]) @ coefficients
        for row, truth in zip(predicted, gains[~rest], strict=True):
            row[chooser.fixed] = chooser.margin
            total += truth[row.argmax()]
    assert chooser.loo_gain == pytest.approx(total / 20, abs=1e-9)


def test_ridge_leaves_unlabelled_images_out(make_world):
    """Images without scores change nothing, and one patient alone is too few to learn from."""
    world = make_world(4, 0.03)
    observations = world.observations_ND[:25]
    scores = world.scores_NK[:25].copy()
    scores[20:] = np.nan
    with_rest = fit_ridge(observations, scores)
    alone = fit_ridge(observations[:20], scores[:20])
    np.testing.assert_array_equal(with_rest.weights_DK, alone.weights_DK)
    assert not fit_ridge(observations[:20], scores[:20], ["one"] * 20).learned
    with pytest.raises(ValueError, match="rows of scores"):
        fit_ridge(observations, scores[:20])


def test_tensors_bring_the_ridge_chooser_back(make_world):
    """A rebuilt chooser chooses alike, learned or not; malformed tensors are refused."""
    for interaction in (0.03, 0.0):
        world = make_world(0, interaction)
        chooser = fit(world)
        rebuilt = RidgeChooser.from_tensors(chooser.to_tensors())
        assert (rebuilt.fixed, rebuilt.loo_gain) == (chooser.fixed, chooser.loo_gain)
        np.testing.assert_array_equal(
            rebuilt.choose(world.observations_ND), chooser.choose(world.observations_ND)
        )
    good = chooser.to_tensors()
    for bad in [
        {"weights": good["weights"]},
        good | {"intercept": good["intercept"][:-1]},
        good | {"weights": good["weights"].astype(np.float32)},
        good | {"rule": np.array([12.0, 0, 0, 0, 0])},
        good | {"rule": np.array([0.5, 0, 0, 0, 0])},
        good | {"rule": np.array([0, np.nan, 0, 0, 0])},
    ]:
        with pytest.raises(ValueError):
            RidgeChooser.from_tensors(bad)
