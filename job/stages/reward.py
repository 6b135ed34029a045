"""reward: train the reward network, cross-fitted by patient, and score the whole table with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.actions import MaskBlocks
from job.data.dataset import Dataset, Sample
from job.data.on_demand import OnDemand
from job.errors import InputError
from job.reward import network_file
from job.reward.examples import LabelledImages
from job.reward.network import NetworkJudge, RewardNetwork
from job.reward.probes import Probe, probe
from job.reward.training import RewardFit, fit
from job.stages import judged, table
from job.stages.pull import load_sizes, open_dataset
from job.stages.stage import Stage, StageContext
from job.storage import strict_json
from job.storage.digests import tensors_digest
from job.storage.local import sha256_file, write_atomic
from job.storage.tensor_file import read_tensors, write_tensors

NETWORK = "best_reward_net.safetensors"
SCORES = "scores.safetensors"
FOLD = "fold_{}.safetensors"
FIGURES = "reward.json"


def reads(context: StageContext) -> Mapping[str, Any]:
    """The network's settings and start, the table, and the images behind it."""
    network = context.spec.reward.network
    pulled = context.done["pull"].outputs
    start = context.inputs.reward_network
    return {
        "network": network.model_dump(exclude={"uri"}),
        "start": sha256_file(start) if start else None,
        "seed": context.spec.seed,
        # The number format too: an accelerator trains in bfloat16.
        "device": "cpu" if context.machine.device == "cpu" else f"{context.machine.device} bfloat16",
        "table": context.done["table"].outputs["table"],
        "actions": context.spec.actions.model_dump(),
        "segmenter": context.segmentations.key,
        "width": context.spec.data.width,
        "images": [pulled["train"], pulled["validation"], pulled["unlabelled"]],
    }


def run(context: StageContext) -> Mapping[str, str]:
    """Train, then score every image of the table by a network that never saw it."""
    dataset = open_dataset(context)
    rows = table.load(context)
    train, validation = dataset.of("train"), dataset.of("validation")
    fitted = fit(
        _labelled(context, dataset, train),
        _labelled(context, dataset, validation),
        settings=context.spec.reward.network,
        start=_start(context),
        seed=context.spec.seed,
        device=context.machine.device,
        progress=context.progress,
        scratch=context.scratch,
    )
    for figures in fitted.history:
        context.log.info("reward.epoch", **figures)
    context.log.info("reward.summary", **asdict(fitted.validation))
    if fitted.best_epoch == 0 and len(fitted.history) > 1:
        message = (
            "training made the reward network worse in every epoch, by its MSE on validation: what it started"
            " from is kept; lower reward.network.learning_rate, or set reward.network.epochs to 0"
        )
        context.log.warning("job.warning", message=message)
    scores_NK = _cross_fitted(context, dataset, list(rows.names), [s.name for s in train], fitted)
    network_file.save(fitted.final, context.folder / NETWORK)
    for fold, network in enumerate(fitted.folds):
        network_file.save(network, context.folder / FOLD.format(fold))
    network_file.save_state_dict(fitted.final, (context.folder / NETWORK).with_suffix(".pth"))
    write_tensors(context.folder / SCORES, {"reward_net": scores_NK}, {})
    probes = _probes(context, dataset, validation, fitted)
    figures_json = {
        "epochs": fitted.history,
        "best_epoch": fitted.best_epoch,
        "validation": asdict(fitted.validation),
        "probes": [asdict(probe) for probe in probes],
        "fold_of": dict(zip((s.name for s in train), fitted.fold_of, strict=True)),
    }
    write_atomic(context.folder / FIGURES, strict_json.dumps(figures_json))
    weights = {name: tensor.numpy() for name, tensor in fitted.final.state_dict().items()}
    return {"network": tensors_digest(weights), "scores": tensors_digest({"reward_net": scores_NK})}


STAGE = Stage("reward", 2, reads, ("torch", "numpy", "scipy"), run)


def load_scores(context: StageContext) -> NDArray[np.float64]:
    """Return the network's scores of the table, `[N, K]`."""
    return read_tensors(context.done["reward"].folder / SCORES)[0]["reward_net"]


def load_figures(context: StageContext) -> dict[str, Any]:
    """Return the training's figures."""
    figures: dict[str, Any] = strict_json.loads((context.done["reward"].folder / FIGURES).read_text())
    return figures


def load_judges(context: StageContext) -> Callable[[Sample], NetworkJudge]:
    """Return the judge of each sample: one that never saw its patient."""
    folder, device = context.done["reward"].folder, context.machine.device
    fold_of: dict[str, int] = load_figures(context)["fold_of"]
    final = NetworkJudge([network_file.load(folder / NETWORK)], device)
    folds = [
        NetworkJudge([network_file.load(folder / FOLD.format(fold))], device)
        for fold in range(max(fold_of.values()) + 1)
    ]
    return lambda sample: folds[fold_of[sample.name]] if sample.name in fold_of else final


def load_networks(context: StageContext) -> list[RewardNetwork]:
    """Return the network of new images and those of the folds; none has learned from a validation image."""
    folder = context.done["reward"].folder
    folds = range(max(load_figures(context)["fold_of"].values()) + 1)
    return [network_file.load(folder / name) for name in (NETWORK, *(FOLD.format(fold) for fold in folds))]


def _probes(
    context: StageContext, dataset: Dataset, validation: list[Sample], fitted: RewardFit
) -> list[Probe]:
    """Try to fool the network that ships, on images that no gradient came from."""
    images, truths = _pictures(dataset, validation)
    judge = fitted.judge(context.machine.device)
    return probe(lambda i: judge, images, truths, seed=context.spec.seed, progress=context.progress)


def _pictures(
    dataset: Dataset, samples: list[Sample]
) -> tuple[Sequence[NDArray[np.uint8]], Sequence[NDArray[np.bool_]]]:
    """Return images and truths of samples, decoded when they are asked for."""
    loaded = OnDemand(len(samples), lambda i: dataset.load(samples[i]))

    def truth_of(i: int) -> NDArray[np.bool_]:
        truth = loaded[i].truth
        assert truth is not None
        return truth

    return OnDemand(len(samples), lambda i: loaded[i].image), OnDemand(len(samples), truth_of)


def _start(context: StageContext) -> RewardNetwork:
    if context.inputs.reward_network is None:
        return network_file.scratch(context.spec.seed)
    return network_file.load(context.inputs.reward_network)


def _labelled(context: StageContext, dataset: Dataset, samples: list[Sample]) -> LabelledImages:
    images, truths = _pictures(dataset, samples)

    def masks_of(i: int, image: NDArray[np.uint8]) -> MaskBlocks:
        return table.masks_of(context, image)

    with context.progress.task("looking for structures", len(samples), "images") as task:
        for truth in truths:
            if truth.any():
                break
            task.advance()
        else:
            raise InputError(
                f"the masks of all {len(truths)} {samples[0].split} images are empty: nothing to learn from",
                advice="check the masks' grey levels and the annotations: `dataset check` says more",
            )
    sizes = [(h, w) for split, h, w in load_sizes(context) if split == samples[0].split]
    return LabelledImages(
        images, truths, [sample.patient for sample in samples], sizes, len(context.space), masks_of
    )


def _cross_fitted(
    context: StageContext,
    dataset: Dataset,
    names: list[str],
    trained: list[str],
    fitted: RewardFit,
) -> NDArray[np.float64]:
    position = {name: i for i, name in enumerate(trained)}
    others = fitted.judge(context.machine.device)

    def judge_of(sample: Sample) -> NetworkJudge:
        if sample.name in position:
            return fitted.judge_for(position[sample.name], context.machine.device)
        return others

    by_name = {sample.name: sample for sample in dataset.samples}
    samples = [by_name[name] for name in names]
    return judged.judge(context, dataset, samples, judge_of, name="judged", key=_networks_key(fitted))


def _networks_key(fitted: RewardFit) -> str:
    """Return what tells judges apart: on a GPU the same training may end with other bits."""
    networks = enumerate([fitted.final, *fitted.folds])
    weights = {
        f"{n}.{name}": t.numpy() for n, network in networks for name, t in network.state_dict().items()
    }
    return tensors_digest(weights, fitted.fold_of)
