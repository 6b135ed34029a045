"""Every hostile file: `python -m tests.hostile.corpus FOLDER` writes them, each in a folder of its own."""

import sys
from pathlib import Path

from tests.hostile.archives import ARCHIVES
from tests.hostile.documents import DOCUMENTS
from tests.hostile.making import Hostile
from tests.hostile.pictures import PICTURES
from tests.hostile.weights import WEIGHTS

CORPUS: tuple[Hostile, ...] = (*DOCUMENTS, *WEIGHTS, *ARCHIVES, *PICTURES)


def write(folder: Path) -> None:
    """Write all of them; none takes more than 32 MiB of the disk, though some claim a terabyte."""
    for hostile in CORPUS:
        place = folder / hostile.door / hostile.name.replace(" ", "-")
        place.mkdir(parents=True)
        hostile.make(place, folder / "MARKER")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
