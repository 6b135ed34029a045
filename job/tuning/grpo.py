"""`grpo`: group relative policy optimisation of the segmenter's weights, by rewards that need no gradient.

Of each crop K masks are sampled around the logits, rewarded, and compared with their own group; pixels move
towards what did better (Shao et al. 2024, arXiv:2402.03300, with a pixel in a token's place). Labelled images
are rewarded by true terms, unlabelled ones by reward networks, and gold, which neither is, watches over both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from job.data.dataset import Loaded
from job.data.on_demand import OnDemand
from job.errors import InputError
from job.progress import Task
from job.segmenters.trainable import Trainable
from job.spec.tuning import GrpoSpec
from job.training_state import Arrays, part, with_prefix
from job.tuning import course
from job.tuning.crops import Crops
from job.tuning.ensemble import Ensemble
from job.tuning.estimators import Masks, Numbers
from job.tuning.guards import Fooled, Limits, Part, mean_of
from job.tuning.phase import DEFAULT_TERMS, PhaseData, PhaseResult, PhaseRoom
from job.tuning.sampling import bernoulli_kl, correlated_noise, log_probability, sample_masks
from job.tuning.sources import Source, sources, terms_of, unlabelled_share

NAME = "grpo"
_TINY = 1e-12


def train_grpo(spec: GrpoSpec, model: Trainable, data: PhaseData, room: PhaseRoom) -> PhaseResult:
    """Maximise the reward of masks sampled around the model's logits.

    With `spec.hide_labels` labelled images are treated as unlabelled ones; where unlabelled ones have no
    share they are left out, and the networks are neither asked nor taught. Raises InputError without
    validation or training images, or without a network for unlabelled ones, InvalidResult where the
    model's answers are not finite from the start, and what `room.progress` raises.
    """
    if spec.hide_labels:
        data = replace(data, labelled=[], unlabelled=_without_truths(data.labelled, data.unlabelled))
    if not (share := unlabelled_share(spec, data.labelled, data.unlabelled)):
        _tell_idle_share(spec, data, room)
        data = replace(data, unlabelled=[])
    _check(data, room)
    learner = _Reinforced(spec, model, data, room)
    fooled: Fooled = "reward_hacking" if share else "overfitting"
    limits = Limits(spec.patience, spec.kl_budget, parts=learner.parts, fooled=fooled)
    result = course.run(spec, limits, learner, model, data, room, NAME)
    facts = {
        "terms": terms_of(spec) if share < 1 else {},
        "labelled": len(data.labelled),
        "unlabelled": len(data.unlabelled),
        "unlabelled_share": share,
        "networks": len(room.networks) if share else 0,
        **result.facts,
    }
    return replace(result, facts=facts)


class _Reinforced:
    """A `course.Learner`. Normalisation keeps its running statistics: one policy is then the same network in
    every batch, and the ratio of two is about their weights alone.

    Its proxy is chain-linked: what a round of teaching the networks makes of the same masks is taken out of
    all later looks, so that nothing but the policy moves it.
    """

    def __init__(self, spec: GrpoSpec, model: Trainable, data: PhaseData, room: PhaseRoom) -> None:
        self._spec, self._model, self._data, self._room = spec, model, data, room
        self.worth = terms_of(spec) if spec.dice_slack else DEFAULT_TERMS
        self.slack = spec.dice_slack
        self._start = model.state()
        self._ensemble = Ensemble(room.networks if data.unlabelled else (), spec.k_sd, room.device)
        self._sources = sources(spec, data.labelled, data.unlabelled, self._ensemble)
        self._sampled: list[_Sampled] = []
        self._mse: dict[str, float] = {}
        self._fixed = [
            source.draw(np.random.default_rng([room.seed, 12, s]), source.n_watched)
            for s, source in enumerate(self._sources)
        ]
        self.parts = tuple(
            Part(sum(len(crops.pixels_B3HW) for crops in drawn), source.share)
            for source, drawn in zip(self._sources, self._fixed, strict=True)
        )
        self._unlinked = np.zeros(sum(one.n_samples for one in self.parts))
        """What rounds alone took from each watched sample's reward, and looks give back."""
        self._model.train(False)
        self._fixed_start = [[self._logits(crops).cpu() for crops in drawn] for drawn in self._fixed]

    def step(self, step: int, task: Task) -> tuple[float, dict[str, float]]:
        rng = np.random.default_rng([self._room.seed, 11, step])
        self._model.train(False)
        if step and step % self._spec.round_every == 0 and len(self._sources) == 2:
            self._teach(rng, task)
        if step % self._spec.updates == 0 or not self._sampled:
            self._sampled = self._sample(rng)
        n_crops = sum(len(one.pixels_B3HW) for one in self._sampled)
        total = total_clipped = 0.0
        for one in self._sampled:
            loss, clipped = self._loss(one)
            share = len(one.pixels_B3HW) / n_crops
            (loss * share).backward()  # type: ignore[no-untyped-call]
            total, total_clipped = total + share * float(loss.detach()), total_clipped + share * clipped
        # Advantages are centred: before the weights move the loss is 0 and no ratio is clipped, whatever is
        # learned. Neither says anything then.
        return total, {"clipped": total_clipped} if self._spec.updates > 1 else {}

    def look(self, task: Task) -> course.Seen:
        self._model.train(False)
        rewards: list[float] = []
        kl: list[float] = []
        for s, starts in enumerate(self._fixed_start):
            for (crops, logits, masks), start in zip(self._watched(s, task), starts, strict=True):
                rewards += self._sources[s].mean_rewards(crops, masks)
                kl += bernoulli_kl(logits, start.to(logits.device)).mean((1, 2)).tolist()
        proxy = np.array(rewards) + self._unlinked
        figures = {"kl": mean_of(np.array(kl), self.parts), **self._mse}
        if len(self.parts) == 2:
            n_labelled = self.parts[0].n_samples
            figures["proxy_labelled"] = float(np.mean(proxy[:n_labelled]))
            figures["proxy_unlabelled"] = float(np.mean(proxy[n_labelled:]))
        return course.Seen(proxy, figures)

    def state(self) -> Arrays:
        arrays = {**with_prefix("networks", self._ensemble.state()), "unlinked": self._unlinked}
        for n, one in enumerate(self._sampled if self._spec.updates > 1 else []):
            arrays |= with_prefix(f"sampled.{n}", one.arrays())
        return arrays | with_prefix("mse", {name: np.array(mse) for name, mse in self._mse.items()})

    def restore(self, arrays: Arrays) -> None:
        self._ensemble.restore(part(arrays, "networks"))
        self._unlinked = np.array(arrays["unlinked"])
        sampled = part(arrays, "sampled")
        n_sampled = len({name.partition(".")[0] for name in sampled})
        self._sampled = [_Sampled.of(part(sampled, str(n)), self._room.device) for n in range(n_sampled)]
        self._mse = {name: float(mse) for name, mse in part(arrays, "mse").items()}

    def _teach(self, rng: np.random.Generator, task: Task) -> None:
        """Show the networks what the model now makes of labelled images.

        What that alone does to the rewards of the watched masks is no doing of the policy's, and is kept.
        """
        shown = []
        for image, truth in self._sources[0].whole(rng, self._spec.round_images):
            task.advance(0)
            logits = self._logits(Crops(torch.from_numpy(image.transpose(2, 0, 1).copy())[None], None))
            shown.append((image, truth, self._masks(logits, rng)[0].cpu().numpy()))
        watched = [(crops, masks) for crops, _, masks in self._watched(1, task)]
        before = self._of_networks(watched)
        self._mse = self._ensemble.retrain(shown, int(rng.integers(2**31)), task)
        # From here on nobody asks whether to stop: a step taken anew would teach the networks twice.
        self._unlinked[-len(before) :] += before - self._of_networks(watched)

    def _of_networks(self, watched: Sequence[tuple[Crops, Masks]]) -> Numbers:
        source = self._sources[1]
        return np.array([reward for one in watched for reward in source.mean_rewards(*one)])

    def _watched(self, s: int, task: Task) -> Iterator[tuple[Crops, Tensor, Masks]]:
        """Yield the watched crops of source `s`, the model's logits `[B, H, W]`, and masks `[B, K, H, W]`.

        The noise is the same each time: the masks of a model that stays the same are too.
        """
        for n, crops in enumerate(self._fixed[s]):
            task.advance(0)
            logits = self._logits(crops)
            rng = np.random.default_rng([self._room.seed, 13, s, n])
            yield crops, logits, self._masks(logits, rng).cpu().numpy()

    def _sample(self, rng: np.random.Generator) -> list["_Sampled"]:
        is_labelled = len(self._sources) == 1 or rng.random() >= self._spec.unlabelled_share
        source = self._sources[0 if is_labelled else 1]
        return [self._judged(source, crops, rng) for crops in source.draw(rng, source.n_drawn)]

    def _judged(self, source: Source, crops: Crops, rng: np.random.Generator) -> "_Sampled":
        # One forward pass serves both where nothing touches the weights in between.
        is_live = self._spec.updates == 1 and not self._spec.kl_weight
        live = self._logits(crops, with_gradient=is_live)
        logits = live.detach()
        masks = self._masks(logits, rng)
        masks_BKHW, bases_BHW = masks.cpu().numpy(), (logits > 0).cpu().numpy()
        found = source.advantages(crops, masks_BKHW, bases_BHW, self._spec.credit, self._spec.window, rng)
        advantages = torch.from_numpy(np.stack(found)).to(logits.device, torch.float32)
        start = self._logits_of_start(crops) if self._spec.kl_weight else None
        return _Sampled(crops.pixels_B3HW, masks, advantages, logits, start, live if is_live else None)

    def _loss(self, one: "_Sampled") -> tuple[Tensor, float]:
        """Return the clipped loss of sampled masks, and the share of pixels whose ratio is clipped."""
        logits_BHW, temperature = one.live_BHW, self._spec.temperature
        if logits_BHW is None:
            logits_BHW = self._logits(Crops(one.pixels_B3HW, None), with_gradient=True)
        now, before = (
            log_probability(logits[:, None] / temperature, one.masks_BKHW)
            for logits in (logits_BHW, one.logits_BHW)
        )
        ratio = torch.exp(now - before)
        # Rewards have any scale: that of the batch, not of a group, whose spread would else make noise of
        # groups that agree as loud as what tells masks apart.
        advantages = one.advantages_BKHW / (one.advantages_BKHW.square().mean().sqrt() + _TINY)
        low, high = 1 - self._spec.clip_range, 1 + self._spec.clip_range
        gain = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
        loss = -gain.mean()
        if one.start_BHW is not None:
            loss = loss + self._spec.kl_weight * bernoulli_kl(logits_BHW, one.start_BHW).mean()
        return loss, float(((ratio.detach() - 1).abs() > self._spec.clip_range).float().mean())

    def _masks(self, logits_BHW: Tensor, rng: np.random.Generator) -> Tensor:
        generator = torch.Generator(logits_BHW.device).manual_seed(int(rng.integers(2**62)))
        n_images, *size = logits_BHW.shape
        noise = correlated_noise(
            n_images, self._spec.samples, (size[0], size[1]), generator, antithetic=self._spec.antithetic
        )
        return sample_masks((logits_BHW / self._spec.temperature).sigmoid(), noise)

    def _logits(self, crops: Crops, *, with_gradient: bool = False) -> Tensor:
        is_cuda = self._room.device != "cpu"
        with torch.set_grad_enabled(with_gradient), torch.autocast("cuda", torch.bfloat16, enabled=is_cuda):
            logits = self._model.logits(crops.pixels_B3HW, [self._data.prompt])
        return logits[:, 0].float()

    def _logits_of_start(self, crops: Crops) -> Tensor:
        now = self._model.state()
        self._model.load_state(self._start)
        start = self._logits(crops)
        self._model.load_state(now)
        return start


@dataclass(frozen=True)
class _Sampled:
    """B crops, K masks of each, their advantages, and the logits of the policy that sampled them.

    `live_BHW` are those logits with their gradient, where that saves a forward pass.
    """

    pixels_B3HW: Tensor
    masks_BKHW: Tensor
    advantages_BKHW: Tensor
    logits_BHW: Tensor
    start_BHW: Tensor | None
    live_BHW: Tensor | None = None

    def arrays(self) -> Arrays:
        """Return all as arrays."""
        return {name: values.cpu().numpy() for name, values in self._tensors().items()}

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {
            "pixels": self.pixels_B3HW, "masks": self.masks_BKHW,
            "advantages": self.advantages_BKHW, "logits": self.logits_BHW,
        }  # fmt: skip
        return tensors | ({} if self.start_BHW is None else {"start": self.start_BHW})

    @classmethod
    def of(cls, arrays: Arrays, device: str) -> "_Sampled":
        """Read what `arrays` returned."""
        tensors = {
            name: torch.from_numpy(values).to(device) for name, values in arrays.items() if values.ndim
        }
        return cls(
            tensors["pixels"], tensors["masks"], tensors["advantages"], tensors["logits"],
            tensors.get("start"),
        )  # fmt: skip


def _without_truths(some: Sequence[Loaded], more: Sequence[Loaded]) -> Sequence[Loaded]:
    return OnDemand(
        len(some) + len(more),
        lambda i: replace(some[i] if i < len(some) else more[i - len(some)], truth=None),
    )


def _tell_idle_share(spec: GrpoSpec, data: PhaseData, room: PhaseRoom) -> None:
    field = f"{room.field}.unlabelled_share"
    if data.unlabelled:
        told = f"{field} is 0: nothing is learned from {len(data.unlabelled)} unlabelled images"
    elif spec.unlabelled_share == 1:
        told = f"{field} is 1, and there is no unlabelled image: every step is on labelled ones"
    else:
        return
    room.log.warning("job.warning", message=told)


def _check(data: PhaseData, room: PhaseRoom) -> None:
    if not data.validation:
        raise InputError(
            "grpo has no validation image, and only true Dice there tells whether a reward is worth anything",
            advice="label some images of the validation split (data.split)",
        )
    if data.unlabelled and not room.networks:
        raise InputError(
            f"{len(data.unlabelled)} unlabelled images, and no reward network to judge them",
            advice='give the job\'s reward a weight for "reward_net" (reward.terms), or leave the images out',
        )
    if not data.labelled and not data.unlabelled:
        raise InputError("grpo has no training image", advice="check data.split")
