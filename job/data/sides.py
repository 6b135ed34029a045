"""Which sides a spec's split would make of a folder, told without decoding a picture."""

from collections import Counter
from pathlib import Path

from job.data import folds, splits
from job.data.dataset import read_folder
from job.data.samples import SPLITS
from job.spec.data import FoldSplit, Split


def sides_in_words(root: Path, split: Split, seed: int, *, trains_network: bool = True) -> str:
    """Return how many images and patients of a dataset folder come on each side, or how folds are dealt.

    Raises `InputError` for what a run would: a folder with mistakes, an empty side, too few patients.
    """
    samples = read_folder(root)
    if isinstance(split, FoldSplit):
        dealt = folds.deal(samples, split.k, seed)
        if trains_network:
            folds.require_training_patients(dealt)
        tested = [len(fold.test) for fold in dealt]
        spread = f"{min(tested)} to {max(tested)}" if len(set(tested)) > 1 else f"{tested[0]}"
        return (
            f"folds, k = {split.k} of {sum(tested)} patients: as many runs, each tested on {spread},"
            " every patient once"
        )
    assigned = splits.assign(samples, split)
    kept = assigned.apply(samples)
    if trains_network:
        splits.require_training_patients({sample.patient for sample in kept if sample.split == "train"})
    images = Counter(sample.split for sample in kept)
    sides = ", ".join(f"{images[side]} {side}" for side in SPLITS if images[side])
    return f"{split.kind}: {sides} images of {len({sample.patient for sample in kept})} patients"
