"""Guards: what counts as a rise, when training ends, and which state is kept."""

from dataclasses import replace

import numpy as np
import pytest

from job.tuning.guards import Limits, Looks, Part, ending, has_risen, mean_of

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


def test_what_is_beyond_the_budget_is_not_kept() -> None:
    """However good its gold is; the start has moved nowhere."""
    some = looks([0.70, 0.75, 0.72, 0.80], [0.7] * 4)
    some.kl = [0.0, 0.2, 0.5, 0.6]
    assert some.best == 3
    some.kl_budget = 0.5
    assert some.best == 1
    some.kl_budget = 0.1
    assert some.best == 0


def test_gold_that_falls_while_the_proxy_rises_is_hacking() -> None:
    """Two looks in a row are needed, and both movements."""
    assert ending(looks([0.7, 0.75, 0.70, 0.65], [0.6, 0.7, 0.8, 0.9]), LIMITS) == "reward_hacking"
    assert ending(looks([0.7, 0.75, 0.70], [0.6, 0.7, 0.8]), LIMITS) is None
    assert ending(looks([0.7, 0.75, 0.70, 0.745], [0.6, 0.7, 0.8, 0.9]), LIMITS) is None
    assert ending(looks([0.7, 0.75, 0.70, 0.65], [0.6, 0.7, 0.8, 0.65]), LIMITS) is None
    assert ending(looks([0.7, 0.75, 0.70, 0.65], []), LIMITS) is None
    assert ending(looks([0.7, 0.75, 0.65, 0.70], [0.6, 0.7, 0.8, 0.9]), LIMITS) is None  # on its way back


def test_a_gold_that_comes_back_unevenly_comes_back() -> None:
    """By more than the smallest fall in the mean: patients differ in how fast they do."""
    some = looks([0.7, 0.75, 0.65, 0.67], [0.6, 0.7, 0.8, 0.9])
    some.gold[3] += [-0.03, 0.03]
    assert not has_risen(some.gold[2], some.gold[3])
    assert ending(some, LIMITS) is None
    some.gold[3] -= 0.011
    assert ending(some, LIMITS) == "reward_hacking"


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


PARTS = (Part(4, 0.5), Part(2, 0.5))


def test_parts_weigh_as_much_as_their_share() -> None:
    """However many samples each has; and the mean's error is that of a stratified sample."""
    before = np.zeros(6)
    assert mean_of(np.array([0.1, 0.1, 0.1, 0.1, 0.5, 0.7])) == pytest.approx(1.6 / 6)
    assert mean_of(np.array([0.1, 0.1, 0.1, 0.1, 0.5, 0.7]), PARTS) == pytest.approx(0.35)
    fallen = np.array([-0.1, -0.1, -0.1, -0.1, 0.15, 0.15])
    assert not has_risen(before, fallen)
    assert has_risen(before, fallen, parts=PARTS)
    # The parts differ, their samples do not: that is no noise.
    assert has_risen(before, np.array([0.0, 0.0, 0.0, 0.0, 0.1, 0.1]), parts=PARTS)
    # Half of an error of 0.05, alone in its part, is half of the rise.
    assert has_risen(before, np.array([0.0, 0.0, 0.0, 0.0, 0.051, 0.151]), parts=PARTS)
    assert not has_risen(before, np.array([0.0, 0.0, 0.0, 0.0, -0.01, 0.15]), parts=PARTS)


def test_a_part_without_a_share_is_not_asked() -> None:
    """Networks that may be played are no reason to end where nothing learns from them."""
    parts = (Part(2, 1.0), Part(2, 0.0))
    true = Limits(patience=4, parts=parts, fooled="overfitting")
    some = looks([0.7, 0.75, 0.70, 0.65], [0.0] * 4)
    some.proxy = [np.array([level, level, 0.5, 0.5]) for level in (0.6, 0.7, 0.8, 0.9)]
    assert ending(some, true) == "overfitting"
    assert ending(some, replace(true, patience=2)) == "overfitting"
    assert ending(some, Limits(patience=4, parts=(Part(2, 0.0), Part(2, 1.0)))) is None


def test_what_may_be_given_up_is_no_fall() -> None:
    """With a slack gold has fallen where it is more than that below the start's."""
    some = looks([0.70, 0.69, 0.685, 0.68], [0.6, 0.7, 0.8, 0.9])
    some.worth = [0.5, 0.4, 0.4, 0.4]
    assert ending(some, LIMITS) == "reward_hacking"
    some.slack = 0.03
    assert ending(some, LIMITS) is None
    some.gold[2:] = [gold - 0.03 for gold in some.gold[2:]]
    assert ending(some, LIMITS) == "reward_hacking"
