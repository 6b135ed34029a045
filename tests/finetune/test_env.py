import gymnasium.utils.env_checker
import numpy as np
import pytest
import stable_baselines3.common.env_checker
from hypothesis import given, settings
from hypothesis import strategies as st

from job.finetune.env import ActionChoiceEnv, Outcome, TableRewards


def environment(n_images=7, n_actions=5, seed=3, e=0):
    """Build an environment whose observation, reward, Dice and score tell image and action apart."""
    codes_NK = np.arange(n_images)[:, None] + np.arange(n_actions) / 100
    observations = np.linspace(-5, 5, n_images, dtype=np.float32)[:, None].repeat(4, axis=1)
    table = TableRewards(codes_NK, codes_NK + 1000, codes_NK + 2000)
    return ActionChoiceEnv(observations, n_actions, table, seed=seed, e=e)


def images(env, n):
    """Return the images of the next n episodes."""
    shown = []
    for _ in range(n):
        env.reset()
        shown.append(env.step(np.int64(0))[4]["image"])
    return shown


@pytest.mark.filterwarnings("ignore:.*The environment.*spec.*")
def test_checkers_are_content():
    """gymnasium's and stable-baselines3's own checkers find nothing to warn about."""
    gymnasium.utils.env_checker.check_env(environment(), skip_render_check=True)
    stable_baselines3.common.env_checker.check_env(environment())


@settings(max_examples=40, deadline=None)
@given(n_images=st.integers(1, 30), seed=st.integers(0, 2**31 - 1), e=st.integers(0, 9))
def test_each_pass_shows_every_image_once(n_images, seed, e):
    """A pass is a permutation of the training images, drawn from the generator (seed, e)."""
    env = environment(n_images=n_images, seed=seed, e=e)
    generator = np.random.default_rng([seed, e])
    for _ in range(3):
        shown = images(env, n_images)
        assert sorted(shown) == list(range(n_images))
        assert shown == generator.permutation(n_images).tolist()


def test_environments_walk_apart_and_repeat_themselves():
    """Equal (seed, e) walk alike, other seeds and other environments do not."""
    walks = {
        (seed, e): tuple(images(environment(n_images=20, seed=seed, e=e), 40))
        for seed in (0, 1)
        for e in (0, 1, 2)
    }
    assert len(set(walks.values())) == 6
    assert walks[1, 2] == tuple(images(environment(n_images=20, seed=1, e=2), 40))
    env = environment(n_images=20, seed=0, e=2)
    images(env, 13)
    env.reset(seed=1)
    first = env.step(np.int64(0))[4]["image"]
    assert (first, *images(env, 39)) == walks[1, 2]


def test_an_episode_is_one_step_with_the_outcome_of_what_was_shown():
    """Reward, Dice and score are those of the shown image and the taken action, and the episode ends."""
    env = environment()
    for action in (0, 4, 2):
        observation, _ = env.reset()
        image = round((float(observation[0]) + 5) / 10 * 6)
        after, reward, terminated, truncated, info = env.step(np.int64(action))
        assert (terminated, truncated) == (True, False)
        np.testing.assert_array_equal(after, observation)
        assert reward == pytest.approx(image + action / 100)
        assert info["gt_dice"] == pytest.approx(image + action / 100 + 1000)
        assert info["reward_net"] == pytest.approx(image + action / 100 + 2000)
        assert info["episode"] == {"r": reward, "l": 1}


def test_a_live_source_is_asked_once_a_step():
    """The reward source is called with plain integers, once for every step and never by reset."""
    calls = []

    def live(image, action):
        calls.append((image, action))
        assert (type(image), type(action)) == (int, int)
        return Outcome(0.5, float("nan"), 0.25)

    env = ActionChoiceEnv(np.zeros((3, 2), np.float32), 4, live, seed=0)
    for action in (3, 1):
        env.reset()
        _, reward, _, _, info = env.step(np.int64(action))
        assert reward == 0.5
        assert np.isnan(info["gt_dice"])
    assert [action for _, action in calls] == [3, 1]


@pytest.mark.parametrize("episodes", [0, 1, 6, 7, 8, 20])
def test_state_continues_the_walk(episodes):
    """An environment restored from a state shows the same images as the one that went on."""
    env = environment()
    env.reset()
    images(env, episodes)
    document, walk = env.state()
    other = environment(seed=99, e=5)
    other.restore(document, walk)
    pending = env.step(np.int64(1))[4], other.step(np.int64(1))[4]
    assert pending[0] == pending[1]
    assert images(env, 25) == images(other, 25)
