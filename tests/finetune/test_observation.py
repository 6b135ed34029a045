import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.finetune.observation import Observer


def features(seed, n, e, s):
    """Return correlated embeddings and statistics of n images."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(e, e))
    return (rng.normal(size=(n, e)) @ mixing + 3).astype(np.float32), rng.normal(5, 2, (n, s)).astype(
        np.float32
    )


def named(s):
    """Return names for s statistics."""
    return [f"statistic {i}" for i in range(s)]


def test_components_are_those_of_the_covariance_matrix():
    """The first observations are scores on the covariance's eigenvectors, scaled to unit variance."""
    embeddings, statistics = features(0, 40, 7, 2)
    observed = Observer.fit(embeddings, statistics, named(2), 3).observe(embeddings, statistics)
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov(centred.T, bias=True))
    for component in range(3):
        vector = vectors[:, -1 - component]
        vector = vector * np.sign(vector[np.abs(vector).argmax()])
        expected = centred @ vector / np.sqrt(values[-1 - component])
        np.testing.assert_allclose(observed[:, component], expected, atol=1e-4)


def test_statistics_are_standardised_by_the_training_images():
    """Statistics become z-scores of the training images, and new images are clipped to 5 of them."""
    embeddings, statistics = features(1, 30, 4, 3)
    observer = Observer.fit(embeddings, statistics, named(3), 0)
    expected = (statistics - statistics.mean(axis=0)) / statistics.std(axis=0)
    np.testing.assert_allclose(observer.observe(embeddings, statistics), expected, atol=1e-4)
    far = observer.observe(embeddings[:1], statistics[:1] + np.float32(1e6))
    np.testing.assert_array_equal(far, np.full((1, 3), 5, np.float32))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 12),
    e=st.integers(1, 9),
    s=st.integers(1, 90),
    k=st.integers(0, 48),
    constant=st.sampled_from([0.0, 1.0, -7.3e4, 1e-20]),
    seed=st.integers(0, 1000),
)
def test_observations_are_finite_bounded_and_constants_vanish(n, e, s, k, constant, seed):
    """Whatever the training images, observations are float32, at most 64, in [-5, 5]; constants give 0."""
    embeddings, statistics = features(seed, n, e, s)
    embeddings[n // 2] = embeddings[0]
    statistics[:, 0] = constant
    observer = Observer.fit(embeddings, statistics, named(s), k)
    observed = observer.observe(embeddings, statistics)
    assert observed.dtype == np.float32
    assert observed.shape == (n, observer.size)
    assert observer.size == min(64, min(k, n - 1, e) + s)
    assert np.isfinite(observed).all()
    assert np.abs(observed).max() <= 5
    if observer.size < 64:
        assert (observed[:, min(k, n - 1, e)] == 0).all()
    if n == 1:
        assert (observed == 0).all()


def test_equal_images_observe_nothing():
    """Training images with equal features give zeros, not rounding noise blown up to unit variance."""
    embeddings, statistics = features(2, 1, 300, 40)
    many = np.repeat(embeddings, 11, axis=0), np.repeat(statistics, 11, axis=0)
    observer = Observer.fit(*many, named(40), 16)
    assert (observer.observe(*many) == 0).all()


def test_order_of_training_images_does_not_matter():
    """A shuffled training set fits the same observer: signs of components are fixed."""
    embeddings, statistics = features(3, 25, 8, 2)
    order = np.random.default_rng(0).permutation(25)
    one = Observer.fit(embeddings, statistics, named(2), 5).observe(embeddings, statistics)
    other = Observer.fit(embeddings[order], statistics[order], named(2), 5).observe(embeddings, statistics)
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_an_image_is_observed_alike_alone_and_among_others():
    """What is observed of an image does not depend on the others in the call."""
    embeddings, statistics = features(4, 20, 6, 3)
    observer = Observer.fit(embeddings, statistics, named(3), 4)
    together = observer.observe(embeddings, statistics)
    for i in range(20):
        alone = observer.observe(embeddings[i : i + 1], statistics[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], atol=1e-6)


def test_tensors_bring_the_observer_back():
    """An observer rebuilt from its tensors observes the same bits."""
    embeddings, statistics = features(5, 20, 6, 3)
    observer = Observer.fit(embeddings, statistics, named(3), 4)
    rebuilt = Observer.from_tensors(observer.to_tensors(), observer.statistic_names)
    assert rebuilt.embedding_size == 6
    np.testing.assert_array_equal(
        rebuilt.observe(embeddings, statistics), observer.observe(embeddings, statistics)
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("centre"),
        lambda t: t.update(extra=np.zeros(1, np.float32)),
        lambda t: t.update(centre=t["centre"][:-1]),
        lambda t: t.update(projection=t["projection"].astype(np.float64)),
        lambda t: t.update(projection=t["projection"] * np.float32(np.nan)),
        lambda t: t.update(projection=np.zeros((9, 65), np.float32)),
    ],
)
def test_unfit_tensors_are_refused(change):
    """Missing, misshapen, foreign and non-finite tensors never become an observer."""
    tensors = Observer.fit(*features(6, 20, 6, 3), named(3), 4).to_tensors()
    change(tensors)
    with pytest.raises(ValueError):
        Observer.from_tensors(tensors, named(3))


def test_features_that_do_not_fit_are_refused():
    """Wrong lengths, unnamed statistics, NaN and nothing at all to observe raise ValueError."""
    embeddings, statistics = features(7, 20, 6, 3)
    observer = Observer.fit(embeddings, statistics, named(3), 4)
    spoilt = statistics.copy()
    spoilt[3, 1] = np.nan
    for wrong in [
        lambda: observer.observe(embeddings[:, :5], statistics),
        lambda: observer.observe(embeddings, statistics[:, :2]),
        lambda: observer.observe(embeddings[:5], statistics),
        lambda: observer.observe(embeddings, spoilt),
        lambda: Observer.fit(embeddings, spoilt, named(3), 4),
        lambda: Observer.fit(embeddings, statistics, named(2), 4),
        lambda: Observer.fit(embeddings[:1], statistics[:1, :0], [], 4),
        lambda: Observer.fit(embeddings[:0], statistics[:0], named(3), 4),
    ]:
        with pytest.raises(ValueError):
            wrong()
