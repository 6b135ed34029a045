"""Progress of long loops."""

from collections.abc import Iterator
from contextlib import contextmanager

from job.progress import SILENT, track


class Recorded:
    """A Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    @contextmanager
    def task(self, what: str, total: int, unit: str) -> Iterator["Recorded"]:
        self.events.append(("open", what, total, unit))
        yield self
        self.events.append(("close",))

    def advance(self, steps: int = 1, **figures: float) -> None:
        self.events.append(("advance", steps))


def test_track_yields_every_item_and_counts_it_when_it_is_done() -> None:
    """A step counts after the loop's body, not before."""
    progress = Recorded()
    for item in track(progress, "reading", iter("ab"), 2, "files"):
        progress.events.append(("body", item))
    assert progress.events == [
        ("open", "reading", 2, "files"), ("body", "a"), ("advance", 1), ("body", "b"), ("advance", 1),
        ("close",),
    ]  # fmt: skip


def test_silence_yields_the_same_items() -> None:
    """For callers that show nothing."""
    assert list(track(SILENT, "x", [1, 2], 2, "files")) == [1, 2]
    with SILENT.task("x", 2, "files") as task:
        task.advance(2, loss=0.5)
