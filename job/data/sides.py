"""Which sides a spec's split would make of a folder, told without decoding a picture."""

from collections import Counter
from pathlib import Path

from job.data import folds, splits
from job.data.dataset import read_folder
from job.data.samples import SPLITS
from job.spec.data import FoldSplit, Split


def sides_in_words(root: Path, split: Split, seed: int) -> str:
    """Return how many images and patients of a dataset folder come on each side, or how folds are dealt.

    Raises `InputError` for what a run would: a folder with mistakes, an empty side, too few patients.
    """
    samples = read_folder(root)
    if isinstance(split, FoldSplit):
        dealt = folds.deal(samples, split.k, seed)
        patients = [len(fold.test) for fold in dealt]
        spread = f"{min(patients)} to {max(patients)}" if len(set(patients)) > 1 else f"{patients[0]}"
        return f"folds, k = {split.k} of {spread} patients: as many runs, every patient tested once"
    assigned = splits.assign(samples, split)
    kept = assigned.apply(samples)
    images = Counter(sample.split for sample in kept)
    sides = ", ".join(f"{images[side]} {side}" for side in SPLITS if images[side])
    return f"{split.kind}: {sides} images of {len({sample.patient for sample in kept})} patients"
