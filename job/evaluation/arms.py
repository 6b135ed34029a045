"""Arms: what every candidate of a ladder scored, image by image, kept for verdicts, folds and comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.evaluation.results import Experiment
from job.reward.terms import METRICS
from job.storage.tensor_file import read_tensors, write_tensors

Scores = NDArray[np.float64]
MEASURED = "measured.safetensors"


@dataclass(frozen=True)
class Arm:
    """One candidate: `validation_dice_M` on M validation images, everything else on N test images.

    `test[metric]` is float64 `[N]` for every name of `METRICS`; `actions_N` are the chosen actions and
    `quality_N` the reward network's scores of their masks.
    """

    name: str
    description: str
    experiment: Experiment | None
    can_ship: bool
    left_out_dice: float | None
    validation_dice_M: Scores
    test: Mapping[str, Scores]
    actions_N: NDArray[np.int64]
    quality_N: Scores


@dataclass(frozen=True)
class Arms:
    """All arms of a ladder, simplest first, on the same images.

    `names` and `patients` are of the N test images, `pixels` sha256 digests of their pixels and truths;
    `validation_patients` of the M validation images.
    """

    arms: tuple[Arm, ...]
    names: tuple[str, ...]
    patients: tuple[str, ...]
    pixels: tuple[str, ...]
    validation_patients: tuple[str, ...]

    def __getitem__(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def __contains__(self, name: str) -> bool:
        return any(arm.name == name for arm in self.arms)

    def save(self, path: Path) -> None:
        """Write everything as one safetensors file."""
        tensors: dict[str, NDArray[np.generic]] = {}
        for arm in self.arms:
            tensors |= {f"measured.{arm.name}.{metric}": values for metric, values in arm.test.items()}
            tensors[f"actions.{arm.name}"] = arm.actions_N
            tensors[f"quality.{arm.name}"] = arm.quality_N
            tensors[f"validation.{arm.name}"] = arm.validation_dice_M
        facts = [
            {
                "name": arm.name,
                "description": arm.description,
                "experiment": arm.experiment,
                "can_ship": arm.can_ship,
                "left_out_dice": arm.left_out_dice,
            }
            for arm in self.arms
        ]
        rows = {"names": self.names, "patients": self.patients, "pixels": self.pixels}
        write_tensors(path, tensors, {**rows, "validation_patients": self.validation_patients, "arms": facts})

    @classmethod
    def load(cls, path: Path) -> "Arms":
        """Read what `save` wrote; IntegrityError for a damaged file."""
        tensors, document = read_tensors(path)
        arms = tuple(
            Arm(
                **facts,
                validation_dice_M=tensors[f"validation.{facts['name']}"],
                test={metric: tensors[f"measured.{facts['name']}.{metric}"] for metric in METRICS},
                actions_N=tensors[f"actions.{facts['name']}"],
                quality_N=tensors[f"quality.{facts['name']}"],
            )
            for facts in document["arms"]
        )
        rows = {key: tuple(document[key]) for key in ("names", "patients", "pixels", "validation_patients")}
        return cls(arms, **rows)


def joined(folds: Sequence[Arms], shipped: Sequence[str], selected: str) -> Arms:
    """Join the arms of folds, which test each image once, and add the arm of what each fold shipped.

    Arms that not every fold has are left out. `shipped[f]` is the candidate of fold f; its arm is called
    `selected`. Validation images come once a fold.
    """
    renamed = [
        replace(
            fold[ship], name=selected, description="what each fold chose on its validation images",
            experiment=None, can_ship=True, left_out_dice=None,
        )
        for fold, ship in zip(folds, shipped, strict=True)
    ]  # fmt: skip
    names = [arm.name for arm in folds[0].arms if all(arm.name in fold for fold in folds)]
    arms = [_joined([fold[name] for fold in folds]) for name in names]
    oracle = arms.pop() if arms[-1].name == "oracle" else None
    arms.append(_joined(renamed))
    return Arms(
        arms=tuple(arms) if oracle is None else (*arms, oracle),
        names=tuple(name for fold in folds for name in fold.names),
        patients=tuple(patient for fold in folds for patient in fold.patients),
        pixels=tuple(pixels for fold in folds for pixels in fold.pixels),
        validation_patients=tuple(patient for fold in folds for patient in fold.validation_patients),
    )


def _joined(parts: Sequence[Arm]) -> Arm:
    first = parts[0]
    descriptions = {part.description for part in parts}
    left_out = [part.left_out_dice for part in parts if part.left_out_dice is not None]
    return replace(
        first,
        description=first.description if len(descriptions) == 1 else "chosen in each fold",
        left_out_dice=float(np.mean(left_out)) if left_out else None,
        validation_dice_M=np.concatenate([part.validation_dice_M for part in parts]),
        test={metric: np.concatenate([part.test[metric] for part in parts]) for metric in METRICS},
        actions_N=np.concatenate([part.actions_N for part in parts]),
        quality_N=np.concatenate([part.quality_N for part in parts]),
    )
