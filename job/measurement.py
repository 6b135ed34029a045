"""What `evaluate` says: a candidate against what its users have today, on one dataset."""

from dataclasses import asdict, dataclass
from typing import Any

from job.metrics.statistics import Interval, Uplift
from job.storage import strict_json

SHOWN = ("dice", "iou", "recall", "precision", "specificity", "cldice")
"""The metrics that people are shown: shares, all of them."""
NO_INTERVAL = "one patient: no interval"


@dataclass(frozen=True)
class Measurement:
    """What a candidate and the no-op score on a dataset, in the mean over patients."""

    candidate: str
    data: str
    images: int
    seen_in_training: int
    """Images that shaped the candidate: their scores say nothing about new patients."""
    before: dict[str, Interval]
    after: dict[str, Interval]
    uplift: Uplift

    def to_json(self) -> dict[str, Any]:
        """Return plain values, NaN and infinities as null."""
        document: dict[str, Any] = strict_json.plain(asdict(self), null=True)
        return document

    def to_text(self) -> str:
        """Return the answer first, then a table of metrics before and after."""
        up = self.uplift
        spread = f"95 % interval {up.low:+.3f} to {up.high:+.3f}" if up.n_patients > 1 else NO_INTERVAL
        lines = [
            f"{self.candidate} on {self.images} images of {up.n_patients} patients ({self.data})",
            f"Dice {self.before['dice'].mean:.3f} -> {self.after['dice'].mean:.3f}"
            f" ({up.mean:+.3f}, {spread};"
            f" {up.wins} better, {up.ties} equal, {up.losses} worse)",
        ]
        if self.seen_in_training:
            lines.append(
                f"WARNING: {self.seen_in_training} of these images shaped the candidate;"
                " what it scores on them says nothing about new patients"
            )
        lines.append(f"{'':14}{'before':>10}{'after':>10}{'95 % interval after':>27}")
        lines += [
            f"{metric:14}{self.before[metric].mean:>10.3f}{self.after[metric].mean:>10.3f}"
            f"{_share_interval(self.after[metric]):>27}"
            for metric in SHOWN
        ]
        return "\n".join(lines)


def _share_interval(interval: Interval) -> str:
    if interval.n == 1:
        return NO_INTERVAL
    # Student's t knows nothing of the ends of a share.
    return f"{max(0.0, interval.low):.3f} to {min(1.0, interval.high):.3f}"
