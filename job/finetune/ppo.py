"""Proximal policy optimisation of the chooser, by stable-baselines3 on one CPU thread."""

import random
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv

from job.errors import InputError, IntegrityError, InvalidResult, SpecError
from job.finetune.curves import Curves, iterations
from job.finetune.env import ActionChoiceEnv, Outcome, RewardSource
from job.finetune.observation import Observations, Observer
from job.finetune.outcomes import KeptOutcomes
from job.finetune.policy import Policy
from job.finetune.recorder import Recorder, check_finite, save_model
from job.finetune.resume import CHECKPOINTS, ResumeFolder, ResumePoint, identity_of, restore
from job.finetune.sb3_zip import read_policy_state
from job.progress import Progress
from job.spec.finetune import FinetuneSpec
from job.storage.local import place

FINAL_MODEL = "final_model.zip"
POLICY = "policy.safetensors"
LOGS = "logs/PPO_1"

# Log-odds of an action that is a standard deviation (of the better half) worse than the best, and the least.
PRIOR_SCALE = 0.5
LEAST_PRIOR = -6.0


@dataclass(frozen=True)
class PPOResult:
    """What training made: the policy, its figures rollout by rollout, checkpoints relative to the folder."""

    policy: Policy
    iterations: list[dict[str, float]]
    total_timesteps: int
    checkpoints: list[str]


def train_ppo(
    settings: FinetuneSpec,
    *,
    seed: int,
    observer: Observer,
    actions: Sequence[str],
    observations_ND: Observations,
    outcome: RewardSource,
    prior_K: NDArray[np.float64] | None,
    folder: Path,
    resume_folder: Path,
    start: Policy | None,
    progress: Progress,
) -> PPOResult:
    """Train a policy on N training images and write it to `folder`.

    `observations_ND` are `observer`'s; `actions` are the K labels; `prior_K` is each action's mean training
    reward. The policy begins with `start`'s weights where given, else with the prior in its action head
    (`init: prior`), else at random. Written are final_model.zip, policy.safetensors, checkpoints/ and
    logs/PPO_1/. The same call after an interruption goes on from the last rollout boundary in `resume_folder`
    and ends with the same bits; nothing of `folder` need have survived.

    Raises SpecError when there is nothing to start from or `start` has other layers than the spec asks for,
    InvalidResult when rewards or the policy stop being finite, and whatever `progress` raises.
    """
    _check(settings, observer, actions, observations_ND, prior_K, start)
    rollout = settings.n_steps * settings.n_envs
    total_timesteps = -(-settings.total_timesteps // rollout) * rollout
    identity = identity_of(
        settings.model_dump(mode="json"),
        seed,
        actions,
        observations_ND,
        prior_K,
        *(start.to_state_dict().values() if start else ()),
    )
    resume = ResumeFolder(resume_folder, identity)
    point = resume.load() if total_timesteps else None
    if settings.rollout == "live":
        outcome = KeptOutcomes(
            _with_threads(outcome, torch.get_num_threads()),
            resume_folder / "outcomes.safetensors",
            key=identity,
            first=point.document["num_timesteps"] if point else 0,
            rollout=rollout,
        )
    with isolated(seed):
        envs = [
            ActionChoiceEnv(observations_ND, len(actions), outcome, seed=seed, e=e)
            for e in range(settings.n_envs)
        ]
        model = build_model(settings, envs, hidden_widths=start.hidden_widths if start else None)
        model.seed = seed
        _initialise(model, settings, prior_K, start)
        curves = Curves(folder / LOGS)
        checkpoints = _learn(
            model, envs, total_timesteps, settings.checkpoint_every, curves, resume, point, progress
        )
        policy = Policy.from_state_dict(_arrays(model), observer, actions)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        for name in checkpoints:
            place(resume_folder / name, folder / name)
        save_model(model, folder / FINAL_MODEL)
        policy.save(folder / POLICY)
    return PPOResult(policy, iterations(curves.rows), model.num_timesteps, checkpoints)


def build_model(
    settings: FinetuneSpec, envs: Sequence[ActionChoiceEnv], *, hidden_widths: Sequence[int] | None = None
) -> PPO:
    """Build PPO as the spec says, with weights from the global generators; `hidden_widths` overrides `pi`."""
    pi = list(settings.net_arch.pi if hidden_widths is None else hidden_widths)
    with warnings.catch_warnings():
        # A last, smaller minibatch is harmless, and the spec refuses the one length that is not.
        warnings.filterwarnings(
            "ignore", message="You have specified a mini-batch size", category=UserWarning
        )
        return PPO(
            "MlpPolicy",
            DummyVecEnv([partial(_itself, env) for env in envs]),
            learning_rate=settings.learning_rate,
            n_steps=settings.n_steps,
            batch_size=settings.batch_size,
            n_epochs=settings.n_epochs,
            gamma=settings.gamma,
            gae_lambda=settings.gae_lambda,
            clip_range=settings.clip_range,
            ent_coef=settings.ent_coef,
            vf_coef=settings.vf_coef,
            max_grad_norm=settings.max_grad_norm,
            policy_kwargs={"net_arch": {"pi": pi, "vf": list(settings.net_arch.vf)}},
            # With a seed of its own PPO would reseed environments e with seed + e; see `isolated`.
            seed=None,
            device="cpu",
        )


def prior_logits(prior_K: NDArray[np.float64]) -> NDArray[np.float32]:
    """Turn mean rewards into log-odds, with the best action at 0.

    The unit is the standard deviation within the better half of the actions: hopeless ones, however bad, must
    not make the good ones look alike. Twice this scale is too steep to leave where the best action depends
    on the image: PPO then closed 15 and 67 % of the oracle gap on validation of specs/quick.json and
    full.json, against 42 and 86 % (means of 4 seeds). Half of it cannot be sharpened in 2,048 steps where
    nothing depends on the image: on simulated tables of 20 images it lost 1.0 Dice points to the best fixed
    action, this scale 0.3.
    """
    better = prior_K[prior_K >= np.median(prior_K)]
    rounding = 1e-9 * np.abs(prior_K).max()
    deviation = better.std() if better.std() > rounding else prior_K.std()
    if deviation <= rounding:
        return np.zeros(len(prior_K), np.float32)
    logits_K = PRIOR_SCALE * (prior_K - prior_K.max()) / deviation
    return np.asarray(np.maximum(logits_K, LEAST_PRIOR), dtype=np.float32)


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed the global generators, which stable-baselines3 draws from, and use one thread; then undo both."""
    python, torch_state, threads = random.getstate(), torch.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()  # noqa: NPY002 (SB3 draws its minibatches from it)
    torch.set_num_threads(1)
    set_random_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002 (as above)
        random.setstate(python)


def read_zip(path: Path, observer: Observer, actions: Sequence[str]) -> Policy:
    """Read the actor out of a stable-baselines3 PPO zip; only tensors are read, nothing in the file is run.

    Raises InputError when it is missing, IntegrityError when it is no such zip or does not fit.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", advice=f"Point to a {FINAL_MODEL} or a checkpoint.")
    try:
        return Policy.from_state_dict(read_policy_state(path), observer, actions)
    except ValueError as error:
        raise IntegrityError(
            f"{path}: not a PPO model for these actions and features: {error}",
            advice="Use a model that was trained with this spec's actions, or its policy.safetensors.",
        ) from error


def _check(
    settings: FinetuneSpec,
    observer: Observer,
    actions: Sequence[str],
    observations_ND: Observations,
    prior_K: NDArray[np.float64] | None,
    start: Policy | None,
) -> None:
    if observations_ND.ndim != 2 or observations_ND.dtype != np.float32 or len(observations_ND) == 0:
        raise ValueError(
            f"observations must be float32 [N, D], got {observations_ND.dtype} {observations_ND.shape}"
        )
    if observations_ND.shape[1] != observer.size:
        raise ValueError(
            f"observations of {observations_ND.shape[1]} numbers; the observer gives {observer.size}"
        )
    if prior_K is not None and (prior_K.shape != (len(actions),) or not np.isfinite(prior_K).all()):
        raise ValueError(f"the prior must be {len(actions)} finite numbers, got {prior_K}")
    if start is not None:
        if start.actions != tuple(actions) or start.observer.size != observer.size:
            raise ValueError("the start policy has other actions or observations; call its check_fits first")
        asked = settings.net_arch.pi
        if "net_arch" in settings.model_fields_set and tuple(asked) != start.hidden_widths:
            raise SpecError(
                f"finetune.net_arch.pi is {asked}; the policy to start from has {list(start.hidden_widths)}",
                advice="Remove finetune.net_arch.pi, or write the policy's widths.",
            )
    elif settings.init == "prior" and prior_K is None:
        raise ValueError("init: prior needs the mean reward of each action")
    elif settings.init == "random" and settings.total_timesteps == 0:
        raise SpecError(
            "finetune.total_timesteps is 0, policy_uri null and init random: there is no policy to judge",
            advice="Set finetune.policy_uri, or let it train.",
        )


def _initialise(
    model: PPO, settings: FinetuneSpec, prior_K: NDArray[np.float64] | None, start: Policy | None
) -> None:
    state = model.policy.state_dict()
    if start is not None:
        state |= {name: torch.from_numpy(values) for name, values in start.to_state_dict().items()}
    elif settings.init == "prior":
        assert prior_K is not None
        state["action_net.bias"] = torch.from_numpy(prior_logits(prior_K))
    model.policy.load_state_dict(state)


def _learn(
    model: PPO,
    envs: Sequence[ActionChoiceEnv],
    total_timesteps: int,
    checkpoint_every: int,
    curves: Curves,
    resume: ResumeFolder,
    point: ResumePoint | None,
    progress: Progress,
) -> list[str]:
    """Train to `total_timesteps`, from the last boundary if there is one; return the checkpoints' names."""
    if total_timesteps == 0:
        curves.close()
        return []
    model.set_logger(Logger(None, [curves]))
    try:
        with progress.task("training the policy", total_timesteps, "step") as task:
            recorder = Recorder(checkpoint_every, envs, curves, resume, task, point)
            if point is not None:
                restore(point, model, envs)
                curves.replay(point.rows)
                task.advance(model.num_timesteps)
            # An update takes minutes where rollouts are long, and stable-baselines3 calls nobody within.
            model.policy.optimizer.register_step_post_hook(lambda *_: task.advance(0))
            with np.errstate(over="ignore", invalid="ignore"):  # the recorder judges what overflowed
                model.learn(
                    total_timesteps - model.num_timesteps,
                    callback=recorder,
                    log_interval=sys.maxsize,  # the recorder logs, once the update of a rollout is done
                    reset_num_timesteps=point is None,
                )
    except ValueError as error:
        # torch refuses a distribution of NaN before the boundary where the recorder would see it.
        try:
            check_finite(model)
        except InvalidResult as diverged:
            raise diverged from error
        raise
    finally:
        curves.close()
    return recorder.checkpoints


def _with_threads(outcome: RewardSource, threads: int) -> RewardSource:
    """Give a source that calls the segmenter its threads back: speed, and the bits of the action table."""

    def on_threads(image: int, action: int) -> Outcome:
        torch.set_num_threads(threads)
        try:
            return outcome(image, action)
        finally:
            torch.set_num_threads(1)

    return on_threads


def _itself(env: ActionChoiceEnv) -> ActionChoiceEnv:
    return env


def _arrays(model: PPO) -> dict[str, NDArray[np.float32]]:
    return {name: values.numpy().copy() for name, values in model.policy.state_dict().items()}
