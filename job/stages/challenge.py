"""challenge: what ships against the champion on tonight's test images, and what is new since it was made.

Only a job that promotes has this stage. The champion predicts as it would for a user, with its own segmenter,
prompts, width and chooser; where segmenter and prompts are tonight's, no model is called.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job import segmenters, trust
from job.data.dataset import Dataset, Sample
from job.data.features import statistics_vector
from job.data.images import pixel_digest
from job.data.samples import SPLITS
from job.errors import InputError, IntegrityError
from job.evaluation import candidate as candidates
from job.evaluation.arms import MEASURED, Arms
from job.evaluation.candidate import CANDIDATE, Candidate, CandidateFile
from job.evaluation.challenge import Opponent, judge
from job.evaluation.conventions import resized
from job.evaluation.drift import PROFILE, Profile, measure_drift
from job.inputs import segmenter_folder
from job.progress import track
from job.publish.champion import Incumbent
from job.publish.training_info import Drift, Promotion
from job.reward.terms import score
from job.segmenters.cache import SegmentationCache
from job.stages import evaluate, pull, reward
from job.stages.image_names import image_names
from job.stages.stage import Stage, StageContext
from job.storage.local import sha256_file, sha256_json, write_atomic

PROMOTION = "promotion.json"


def reads(context: StageContext) -> Mapping[str, Any]:
    """What evaluate made of which images, and the champion."""
    pulled, champion = context.done["pull"].outputs, context.inputs.champion
    return {
        # Whatever evaluate wrote follows from its fingerprint: the candidate, too, which is no output.
        "evaluate": context.done["evaluate"].fingerprint,
        "images": {split: pulled[split] for split in SPLITS},
        "confidence": context.spec.evaluate.confidence,
        "champion": None if champion is None else _identity(champion),
    }


def run(context: StageContext) -> Mapping[str, str]:
    """Decide whether what ships becomes the champion; writes nothing but the decision."""
    verdict, champion = evaluate.load_results(context).verdict, context.inputs.champion
    arms = Arms.load(context.done["evaluate"].folder / MEASURED)
    met = None if champion is None else _meet(context, champion, arms)
    promotion = judge(
        verdict,
        arms[verdict.ships].test["dice"],
        arms.patients,
        met,
        context.spec.evaluate.confidence,
    )
    document = promotion.model_dump_json(indent=1)
    write_atomic(context.folder / PROMOTION, document)
    context.log.info("champion.compared", decision=promotion.decision, sentence=promotion.sentence)
    return {"promotion": sha256_json(json.loads(document))}


STAGE = Stage("challenge", 1, reads, ("torch", "numpy", "scipy"), run)


def check(context: StageContext) -> None:
    """Raise before hours of work what would stop the comparison at their end: a champion of no use."""
    if context.inputs.champion is not None:
        _open(context, context.inputs.champion)


def load(context: StageContext) -> Promotion | None:
    """Return the decision; None for a job that does not promote."""
    if STAGE.name not in context.done:
        return None
    return Promotion.model_validate_json((context.done[STAGE.name].folder / PROMOTION).read_bytes())


@dataclass(frozen=True)
class _Sight:
    """What the champion makes of an image; `dice` is NaN where there is no truth."""

    action: int
    dice: float
    statistics_S: NDArray[np.float32]


def _meet(context: StageContext, champion: Incumbent, arms: Arms) -> Opponent:
    one, known, segmentations = _open(context, champion)
    dataset = pull.open_dataset(context)
    pixels = _pixels(context, dataset, one.file.width)
    learned, had = set(one.file.trained_on), set(known.pixels)
    new = [sample for sample in dataset.samples if pixels[sample.name] not in had]
    judged = [sample for sample in dataset.of("test") if pixels[sample.name] not in learned]
    asked = {sample.name: sample for sample in (*judged, *new)}
    sights = _look(context, one, segmentations, dataset, list(asked.values()))
    context.segmentations.computed += segmentations.computed
    context.segmentations.cached += segmentations.cached
    dice = {sample.name: sights[sample.name].dice for sample in judged}
    return Opponent(
        run=champion.record.current.run,
        candidate=champion.record.candidate,
        generation=champion.record.generation,
        is_challenger=_acts_alike(context, champion.folder, one.file),
        dice_N=np.array([dice.get(name, np.nan) for name in arms.names]),
        drift=_drift(context, known, new, pixels, sights),
    )


def _open(context: StageContext, champion: Incumbent) -> tuple[Candidate, Profile, SegmentationCache]:
    with _blamed_on(champion):
        one = candidates.load(champion.folder, context.machine.device)
        known = Profile.load(champion.folder / "evaluation" / PROFILE)
        return one, known, _segmentations(context, champion, one.file)


def _look(
    context: StageContext,
    champion: Candidate,
    segmentations: SegmentationCache,
    dataset: Dataset,
    samples: Sequence[Sample],
) -> dict[str, _Sight]:
    """Let the champion act on samples of tonight's dataset; its masks are scored at tonight's width."""
    sights, own = {}, replace(dataset, width=champion.file.width)
    for sample in track(context.progress, "asking the champion", samples, len(samples), "images"):
        tonight = dataset.load(sample)
        loaded = tonight if own.width == dataset.width else own.load(sample)
        segmentation = segmentations.get([loaded.image])[0]
        found = champion.predict(loaded.image, segmentation, loaded.fov)
        dice = np.nan
        if tonight.truth is not None:
            mask_HW = resized(found.mask_HW, tonight.truth.shape)
            dice = float(score(mask_HW[None], tonight.truth, ["dice"])["dice"][0])
        _, statistics_S = statistics_vector(loaded.image, loaded.fov, segmentation.logits_PHW)
        sights[sample.name] = _Sight(found.action, dice, statistics_S)
    return sights


def _drift(
    context: StageContext,
    known: Profile,
    new: Sequence[Sample],
    pixels: Mapping[str, str],
    sights: Mapping[str, _Sight],
) -> Drift:
    seen = [sights[sample.name] for sample in new]
    n_statistics = len(known.statistic_names)
    profile = Profile(
        pixels=tuple(pixels[sample.name] for sample in new),
        splits=tuple(sample.split or "" for sample in new),
        patients=tuple(sample.patient for sample in new),
        statistic_names=known.statistic_names,
        labels=known.labels,
        statistics_NS=np.array([one.statistics_S for one in seen], np.float32).reshape(-1, n_statistics),
        actions_N=np.array([one.action for one in seen], np.int64),
        dice_N=np.array([one.dice for one in seen], np.float64),
    )
    return measure_drift(known, profile, context.spec.evaluate.confidence)


def _segmentations(context: StageContext, champion: Incumbent, file: CandidateFile) -> SegmentationCache:
    """Return the cache of the champion's segmenter and prompts: tonight's own where they are the same."""
    tonight = context.segmentations
    if file.segmenter_key == tonight.key:
        return tonight.of(key=tonight.key, prompts=file.prompts, open_segmenter=lambda: tonight.segmenter)
    folder = (
        champion.folder / file.segmenter_folder
        if file.segmenter_folder
        else champion.segmenter or segmenter_folder(file.segmenter.uri)
    )
    spec = trust.vouched_by(file.segmenter, trust.trust_code_of(context.spec.segmenter))
    trust.require_vouched(spec, folder)
    return tonight.of(
        key=segmenters.require_same(spec, folder, file.segmenter_key),
        prompts=file.prompts,
        open_segmenter=lambda: segmenters.load(
            spec, folder, context.machine.device, context.log,
            names=image_names(context, file.width),
        ),
    )  # fmt: skip


def _pixels(context: StageContext, dataset: Dataset, width: int | None) -> dict[str, str]:
    """Return the digest of each image's pixels at the champion's width, by the image's name."""
    if width == dataset.width:
        return evaluate.load_pixels(context)
    own = replace(dataset, width=width)
    samples = track(context.progress, "reading images", own.samples, len(own.samples), "images")
    return {sample.name: pixel_digest(own.load(sample).image) for sample in samples}


def _acts_alike(context: StageContext, champion: Path, file: CandidateFile) -> bool:
    """Tell whether tonight's candidate makes the champion's mask of every image."""
    folder = context.done["evaluate"].folder
    if not (folder / CANDIDATE).exists():
        return False
    tonight = CandidateFile.model_validate_json((folder / CANDIDATE).read_bytes())
    if _conduct(tonight) != _conduct(file):
        return False
    decisive = candidates.decisive_file(file)
    if decisive is None:
        return True
    places = {
        candidates.POLICY: context.done["finetune"].folder / candidates.POLICY,
        candidates.NETWORK: context.done["reward"].folder / reward.NETWORK,
    }
    return sha256_file(places.get(decisive, folder / decisive)) == sha256_file(champion / decisive)


def _conduct(file: CandidateFile) -> list[Any]:
    fixed = file.action if file.chooser == "fixed" else None
    return [file.segmenter_key, file.width, file.prompts, file.space, file.chooser, fixed]


def _identity(champion: Incumbent) -> dict[str, Any]:
    record = champion.record
    return {
        "run": record.current.run,
        "manifest": record.current.manifest_sha256,
        "generation": record.generation,
    }


@contextmanager
def _blamed_on(champion: Incumbent) -> Iterator[None]:
    """Name the champion in errors of its files: without it nothing may be promoted unseen."""
    where = f"the champion {champion.record.current.run} cannot be compared with"
    advice = (
        f"mend its run or put another in its place: promote .../models/{champion.record.name} --to RUN_ID"
    )
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{where}: {error.filename} is missing", advice=advice) from error
    except (InputError, IntegrityError) as error:
        raise type(error)(f"{where}: {error}", advice=advice) from error
