"""How scores vary from image to image and from action to action."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from job.checks.variation import two_way, within_image

TABLES = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6),
    elements=st.floats(-1.0, 1.0),
)


@given(TABLES)
def test_squares_add_up_to_the_whole_variance(table_NK: np.ndarray) -> None:
    """Images, actions and interaction are all there is; within is what varies at a fixed image."""
    parts = two_way(table_NK)
    assert parts.within**2 == pytest.approx(parts.action**2 + parts.interaction**2, abs=1e-12)
    assert parts.within**2 + parts.between**2 == pytest.approx(table_NK.var(), abs=1e-12)
    assert parts.within == pytest.approx(np.sqrt(np.mean([row.var() for row in table_NK])), abs=1e-12)


def test_each_part_stands_for_what_it_is_named_for() -> None:
    """Images alone make between, actions alone make action, and an exchange of actions makes interaction."""
    images = two_way(np.array([[0.2, 0.2], [0.6, 0.6]]))
    assert (images.within, images.action, images.interaction) == pytest.approx((0, 0, 0))
    assert images.between == pytest.approx(0.2)
    actions = two_way(np.array([[0.2, 0.6], [0.2, 0.6]]))
    assert (actions.within, actions.action) == pytest.approx((0.2, 0.2))
    assert (actions.between, actions.interaction) == pytest.approx((0, 0))
    exchange = two_way(np.array([[0.2, 0.6], [0.6, 0.2]]))
    assert (exchange.within, exchange.interaction) == pytest.approx((0.2, 0.2))
    assert (exchange.between, exchange.action) == pytest.approx((0, 0))


def test_within_image_scores_have_no_mean() -> None:
    """What is left is what an action changes."""
    assert within_image(np.array([[0.2, 0.6], [0.5, 0.5]])) == pytest.approx(
        np.array([[-0.2, 0.2], [0.0, 0.0]])
    )
