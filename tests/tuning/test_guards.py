"""Guards: what counts as a rise, when training ends, and which state is kept."""

import numpy as np
import pytest

from job.tuning.guards import Limits, Looks, ending, has_risen

LIMITS = Limits(patience=4, kl_budget=0.5)


def looks(gold: list[float], proxy: list[float], kl: float = 0.0) -> Looks:
    """Two patients and four samples that move together, each from a level of its own."""
    patients, samples = np.array([-0.1, 0.1]), np.array([-0.2, 0.0, 0.1, 0.1])
    golds, proxies = [g + patients for g in gold], [p + samples for p in proxy]
    return Looks(golds, proxies, [kl] * len(gold), worth=gold)


def test_the_start_is_kept_unless_it_is_beaten() -> None:
    """The best look is that of highest gold, the earliest among equals."""
    assert looks([0.7, 0.6, 0.7], [0.7] * 3).best == 0
    assert looks([0.7, 0.8, 0.75, 0.8], [0.7] * 4).best == 1


def test_dice_may_be_given_up_within_its_slack() -> None:
    """The state of highest worth is kept, of those whose gold is no more than the slack below the start's."""
    some = looks([0.80, 0.81, 0.795, 0.78], [0.7] * 4)
    some.worth = [0.5, 0.6, 0.7, 0.8]
    assert some.best == 1
    some.slack = 0.01
    assert some.best == 2
    some.slack = 0.03
    assert some.best == 3


def test_gold_that_falls_while_the_proxy_rises_is_hacking() -> None:
    """Two looks in a row are needed, and both movements."""
    assert ending(looks([0.7, 0.75, 0.70, 0.65], [0.6, 0.7, 0.8, 0.9]), LIMITS) == "reward_hacking"
    assert ending(looks([0.7, 0.75, 0.70], [0.6, 0.7, 0.8]), LIMITS) is None
    assert ending(looks([0.7, 0.75, 0.70, 0.745], [0.6, 0.7, 0.8, 0.9]), LIMITS) is None
    assert ending(looks([0.7, 0.75, 0.70, 0.65], [0.6, 0.7, 0.8, 0.65]), LIMITS) is None
    assert ending(looks([0.7, 0.75, 0.70, 0.65], []), LIMITS) is None
    assert ending(looks([0.7, 0.75, 0.65, 0.70], [0.6, 0.7, 0.8, 0.9]), LIMITS) is None  # on its way back


def test_a_small_fall_is_noise() -> None:
    """Less than the smallest fall, or less than patients differ in it, is no fall."""
    assert ending(looks([0.7, 0.75, 0.742, 0.741], [0.6, 0.7, 0.8, 0.9]), LIMITS) is None
    uneven = looks([0.7, 0.75, 0.70, 0.70], [0.6, 0.7, 0.8, 0.9])
    for gold in uneven.gold[2:]:
        gold += [-0.12, 0.12]
    assert ending(uneven, LIMITS) is None


def test_patience_and_budget_end_as_well() -> None:
    """A spent budget ends at once, patience after as many looks without a better one."""
    assert ending(looks([0.7, 0.8], [0.6, 0.7], kl=0.6), LIMITS) == "kl"
    assert ending(looks([0.7, 0.8], [0.6, 0.7], kl=0.6), Limits(patience=4)) is None
    assert ending(looks([0.7, 0.69, 0.7, 0.69, 0.7], [0.6] * 5), LIMITS) == "patience"
    assert ending(looks([0.7, 0.69, 0.7, 0.69], [0.6] * 4), LIMITS) is None


@pytest.mark.parametrize(
    ("after", "least", "rises"),
    [([0.6, 0.6], 0.0, True), ([0.6, 0.6], 0.2, False), ([0.9, 0.45], 0.0, False), ([0.4, 0.4], 0.0, False)],
)
def test_a_rise_is_beyond_its_standard_error(after: list[float], least: float, rises: bool) -> None:
    """The mean must exceed both the least rise and the standard error of the pairs."""
    assert has_risen([0.5, 0.5], after, least) is rises


def test_one_pair_has_no_error() -> None:
    """With a single patient the least rise decides alone."""
    assert has_risen([0.5], [0.52], 0.01)
    assert not has_risen([0.5], [0.505], 0.01)
