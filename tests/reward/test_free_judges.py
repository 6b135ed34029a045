"""The judges that cost no training, against plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from job.reward.free_judges import confidence, consensus

MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 30)))


@given(masks=MASKS, seed=st.integers(0, 99))
def test_confidence_is_the_mean_probability_of_the_foreground(masks: np.ndarray, seed: int) -> None:
    """Recomputed pixel by pixel; a mask without foreground has none."""
    probability = np.random.default_rng(seed).random(masks.shape[1]).astype(np.float32)
    inside = [[float(p) for p, is_on in zip(probability, mask, strict=True) if is_on] for mask in masks]
    expected = [sum(values) / len(values) if values else 0.0 for values in inside]
    scores = confidence(masks, probability)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, atol=1e-12)


@given(masks=MASKS)
def test_consensus_is_dice_with_the_strict_majority(masks: np.ndarray) -> None:
    """Votes are counted pixel by pixel; half of the masks is no majority."""
    majority = {x for x in range(masks.shape[1]) if sum(map(int, masks[:, x])) * 2 > len(masks)}
    expected = []
    for mask in masks:
        own = {int(x) for x in np.flatnonzero(mask)}
        both_empty = not own and not majority
        expected.append(1.0 if both_empty else 2 * len(own & majority) / (len(own) + len(majority)))
    np.testing.assert_allclose(consensus(masks), expected, atol=1e-12)


def test_more_masks_than_a_byte_counts_are_counted() -> None:
    """300 equal masks agree with their own majority, and an empty one among them does not."""
    masks = np.zeros((301, 8), dtype=bool)
    masks[:300, :3] = True
    scores = consensus(masks)
    assert (scores[:300] == 1).all()
    assert scores[300] == 0


@pytest.mark.parametrize("shape", [(5,), (0, 7)])
def test_consensus_of_nothing_is_refused(shape: tuple[int, ...]) -> None:
    """Without a mask there is no majority."""
    with pytest.raises(ValueError, match="masks"):
        consensus(np.zeros(shape, dtype=bool))


def test_confidence_needs_a_probability_for_each_pixel() -> None:
    """A map of another length is refused rather than broadcast."""
    with pytest.raises(ValueError, match="probabilities"):
        confidence(np.ones((2, 6), dtype=bool), np.ones(1, dtype=np.float32))
