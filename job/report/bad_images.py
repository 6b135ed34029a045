"""Images that were left out because they cannot be used: shared by both reports."""

from collections.abc import Sequence

from job.publish.training_info import BadImage
from job.report.numbers import count
from job.report.tables import Row, Table, table


def bad_images_sentence(bad: Sequence[BadImage]) -> str:
    """Say how many images were left out; empty where none was."""
    if not bad:
        return ""
    return f"{count(len(bad), 'image')} could not be used, and took no part: data.on_bad_image is skip."


def bad_images_table(bad: Sequence[BadImage]) -> Table | None:
    """Return a row for each of them: the file, what is wrong with it, and where it belongs."""
    rows = [Row((one.file, one.what, one.dataset)) for one in bad]
    return table(("File", "What is wrong", "Data set"), rows, n_text=3)
