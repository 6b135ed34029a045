"""Test images for the report: a row for each, and the worst, the median and the best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from job.evaluation.results import ImageResult
from job.publish.training_info import TrainingInfo
from job.report.numbers import figure, signed
from job.report.pictures import Panel, Thumbnails, Tile, overlay, thumbnails


@dataclass(frozen=True)
class Number:
    """A figure as it is shown and as it is sorted."""

    text: str
    sort: str


@dataclass(frozen=True)
class ImageRow:
    """A test image in the table of all images."""

    name: str
    patient: str
    action: str
    before: Number
    after: Number
    change: Number
    oracle: Number
    predicted: Number
    cldice: Number
    pictures: Thumbnails | None
    tone: str


@dataclass(frozen=True)
class Overlay:
    """One of the images that are shown large."""

    rank: str
    row: ImageRow
    tiles: tuple[Tile, ...]


LEFT_OUT = (
    "Photographs and masks are left out of this run's folder and report: its spec says `report.images` false."
)


def leaves_out_pictures(info: TrainingInfo) -> bool:
    """Return whether a run was asked to show no image."""
    return not info.spec.get("report", {}).get("images", True)


def image_rows(info: TrainingInfo, panels: Mapping[str, Panel]) -> list[ImageRow]:
    """Return the test images, worst first."""
    labels = {action.index: action.label for action in info.actions}
    images = by_dice(info.results.images)
    pictures = thumbnails(panels[image.name] for image in images if image.name in panels)
    return [_row(image, labels, pictures.get(image.name)) for image in images]


def overlays(info: TrainingInfo, panels: Mapping[str, Panel]) -> list[Overlay]:
    """Return the worst, the median and the best image of what ships; fewer where there are fewer."""
    labels = {action.index: action.label for action in info.actions}
    ranked = [
        image
        for image in by_dice(info.results.images)
        if image.name in panels and math.isfinite(_dice(image.after))
    ]
    places = {"Worst": 0, "Median": (len(ranked) - 1) // 2, "Best": len(ranked) - 1}
    if len(ranked) < len(places):
        places = dict(list({"Worst": 0, "Best": 1}.items())[: len(ranked)])
    return [
        Overlay(rank, _row(ranked[at], labels, None), tuple(overlay(panels[ranked[at].name])))
        for rank, at in places.items()
    ]


def by_dice(images: Sequence[ImageResult]) -> list[ImageResult]:
    """Sort images by the Dice of what ships, lowest first; ties by name, unknown Dice first."""

    def key(image: ImageResult) -> tuple[float, str]:
        dice = _dice(image.after)
        return (dice if math.isfinite(dice) else -math.inf, image.name)

    return sorted(images, key=key)


def _row(image: ImageResult, labels: Mapping[int, str], pictures: Thumbnails | None) -> ImageRow:
    before, after = _dice(image.before), _dice(image.after)
    difference = after - before
    return ImageRow(
        name=image.name,
        patient=image.patient,
        action=labels.get(image.action, f"action {image.action}"),
        before=_number(before),
        after=_number(after),
        change=Number(signed(difference), _sort(difference)),
        oracle=_number(image.oracle_dice),
        predicted=_number(image.predicted_quality),
        cldice=_number(image.after.get("cldice", math.nan)),
        pictures=pictures,
        tone="good" if difference >= 0.0005 else "bad" if difference <= -0.0005 else "same",
    )


def _dice(values: Mapping[str, float]) -> float:
    return values.get("dice", math.nan)


def _number(value: float) -> Number:
    return Number(figure(value), _sort(value))


def _sort(value: float) -> str:
    return f"{value:.6f}" if math.isfinite(value) else ""
