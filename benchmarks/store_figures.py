"""What `benchmarks/store_speed.py` measures, and how it is printed."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEAST = 0.9
"""Wanted of the seconds of the better of the others over ours."""


@dataclass(frozen=True)
class Client:
    """One way to move files; `kind` is what it is compared as."""

    kind: str
    how: str
    threads: int = 0

    @property
    def keeps_promises(self) -> bool:
        """Whether it digests what it moves, and flushes what it downloads sooner or later."""
        return self.kind not in ("boto3", "rclone")

    def __str__(self) -> str:
        return f"{self.how}{f' x {self.threads}' if self.threads else ''}"


@dataclass(frozen=True)
class Workload:
    """`n_files` of `size` bytes, and the settings among which each other client's is chosen."""

    name: str
    n_files: int
    size: int
    others: tuple[Client, ...]
    has_shards: bool = True

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return self.n_files * self.size

    def scaled(self, factor: float) -> "Workload":
        """Return a smaller one: fewer files, or a smaller one where there is one."""
        n_files, size = max(1, round(self.n_files * factor)), self.size
        if self.n_files == 1:
            size = round(self.size * factor)
        return Workload(self.name, n_files, size, self.others, self.has_shards)


@dataclass(frozen=True)
class Measured:
    """What one transfer took."""

    seconds: float
    processor_seconds: float
    peak_rss: int
    """Bytes."""
    verify_s: float
    """What was left then to digest and compare, for the others, which do not, nothing."""
    after_s: float
    """What it took then to digest and flush the files, for ours what was left to flush."""

    @property
    def verified_s(self) -> float:
        """Seconds until all is what it should be, as far as the client sees to that."""
        return self.seconds + self.verify_s

    @property
    def flushed_s(self) -> float:
        """Seconds until all is digested and, down, flushed."""
        return self.verified_s + self.after_s


Series = dict[Client, list[Measured]]
Ratios = tuple[float, float, float]
"""Of seconds until all files are here, until they are verified, and until they are flushed."""


def report(workload: Workload, way: str, series: Series) -> Ratios:
    """Print what was measured; returns the medians of the ratios."""
    (first, times), *others = series.items()
    label = f"{workload.name:>6} {way:>4} "
    for client, some in series.items():
        seconds = sorted(one.seconds for one in some)
        against = statistics.median(one.seconds / mine.seconds for one, mine in zip(some, times, strict=True))
        after_s = statistics.median(one.after_s for one in some)
        what = "to digest" if way == "up" else "to digest and flush"
        if client.keeps_promises:
            what = "to flush"
        after = f" + {after_s:.2f} s {what}" if after_s else ""
        verify_s = statistics.median(one.verify_s for one in some)
        after = (f" + {verify_s:.2f} s to verify" if verify_s else "") + after
        print(
            f"{label} {client.kind:<6} {client!s:<13}"
            f" {workload.total / statistics.median(seconds) / 1e6:6.0f} MB/s"
            f" {statistics.median(seconds):7.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f}),"
            f" processor {statistics.median(one.processor_seconds for one in some):6.2f} s,"
            f" peak RSS {max(one.peak_rss for one in some) / 1e6:5.0f} MB, {against:.2f} x {first.kind}"
            f"{after}"
        )
    other = "better of the others" if len(others) > 1 else others[0][0].kind
    here = _ratios(series, lambda one: one.seconds)
    verified = _ratios(series, lambda one: one.verified_s)
    flushed = _ratios(series, lambda one: one.flushed_s)
    for name, ratios in {
        ", until here": here,
        ", until verified": verified,
        ", until flushed": flushed,
    }.items():
        print(
            f"{label} {other} / {first.kind}{name} = {statistics.median(ratios):.2f}"
            f" ({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} rounds)",
            flush=True,
        )
    return statistics.median(here), statistics.median(verified), statistics.median(flushed)


def _ratios(series: Series, seconds: Callable[[Measured], float]) -> list[float]:
    """Return the best of the others over the first client in each round, sorted."""
    first, *others = series.values()
    return sorted(min(seconds(some[i]) for some in others) / seconds(mine) for i, mine in enumerate(first))


def median_s(some: Sequence[Measured]) -> float:
    """Return the median of the seconds until the files were here."""
    return statistics.median(one.seconds for one in some)
