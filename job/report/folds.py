"""The folds of an out-of-fold result."""

from collections.abc import Sequence

from job.publish.training_info import FoldSummary
from job.report.numbers import count, figure, signed
from job.report.tables import Row, Table, table
from job.report.words import candidate_name

HEAD = ("Fold", "Test patients", "Ships", "Validation Dice", "Today", "After", "Change")


def folds_table(folds: Sequence[FoldSummary]) -> Table | None:
    """Set the folds side by side; None for a run without folds."""
    return table(HEAD, [_row(fold) for fold in folds], n_text=3)


def folds_sentence(folds: Sequence[FoldSummary]) -> str:
    """Say what out-of-fold figures are."""
    return (
        f"{count(len(folds), 'run')}, each in a folder of its own ({folds[0].run}, ...): every image is"
        " tested once, by a run that learned and chose without its patient. They measure the procedure;"
        " what a fold ships lies in its folder."
        if folds
        else ""
    )


def _row(fold: FoldSummary) -> Row:
    return Row(
        (
            str(fold.fold),
            ", ".join(fold.patients),
            candidate_name(fold.ships) + (f" ({fold.setting})" if fold.setting else ""),
            figure(fold.validation_dice),
            figure(fold.dice_before),
            figure(fold.dice_after),
            signed(fold.dice_after - fold.dice_before),
        ),
        "invalid" if fold.verdict == "invalid" else "",
    )
