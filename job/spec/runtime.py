"""`evaluate`, `output`, `cache` and `runtime`: the verdict, and what enters no fingerprint."""

from typing import Literal, Self

from pydantic import Field, model_validator

from job.spec.section import Section, Uri, broken_rule
from job.stopping import GRACE_S


class OtherDataset(Section):
    """A dataset folder that nothing is learned from: what ships is judged on all its images with a mask."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """What the report calls it."""
    uri: Uri
    """The folder."""


class EvaluateSpec(Section):
    """How candidates are judged."""

    datasets: list[OtherDataset] = Field([], max_length=32)
    """Further datasets to judge on, beside the test images of `data`; each has a name of its own."""

    smallest_effect: float = Field(0.01, gt=0.0, lt=1.0)
    """Mean Dice difference below which a change is not worth having: decides `no-improvement`."""
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Of every interval."""
    review_share: float = Field(0.2, gt=0.0, lt=1.0)
    """Share of validation images whose predicted quality would be flagged for review; sets predict's flag."""

    @model_validator(mode="after")
    def _no_name_twice(self) -> Self:
        # They name files, on disks that may not tell cases apart.
        names = [dataset.name.lower() for dataset in self.datasets]
        for position, name in enumerate(names):
            if name in names[:position]:
                what = f"repeats the name of datasets[{names.index(name)}]; the report tells them apart by it"
                raise broken_rule(what, "datasets", position, "name")
        return self


class OutputSpec(Section):
    """Where results go."""

    uri: Uri = "output"
    """Root of runs/, models/ and stages/: a path, `file://` or `s3://BUCKET/PREFIX`."""
    keep_runs: int | None = Field(None, ge=1, le=100_000)
    """Finished runs of this name to keep, newest first; older ones are removed when a run ends, but for those
    that a champion names. Null keeps all."""


class CacheSpec(Section):
    """Where this machine keeps what it has downloaded and computed."""

    uri: Uri | None = None
    """A folder on this machine; null is cache/ beside the runs or, where those go to a store, JOB_CACHE_DIR,
    else ~/.cache/segmenter-rl-job."""
    max_gb: float = Field(100.0, gt=0.0, le=1_000_000.0)
    """Downloads kept for the next run, in GB (10^9 bytes), and as much of work for stores: the longest unused
    goes first."""


class PromoteSpec(Section):
    """Whether what ships becomes the champion, `models/NAME/champion.json`."""

    when: Literal["never", "better"] = "never"
    """`better`: when it is surely better than the champion on the same test images, and than the no-op. A job
    that promotes does nothing when nothing is new since the last one."""


class RuntimeSpec(Section):
    """How the job uses the machine; nothing here changes what is computed, up to rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where there is one."""
    threads: int | None = Field(None, ge=1, le=1024)
    """CPU threads; null takes what the process may use. Recorded: equal digests need equal threads."""
    progress_every_s: float = Field(10.0, gt=0.0, le=3600.0)
    """Seconds between progress events when the output is not a terminal."""
    log_level: Literal["debug", "info", "warning"] = "info"
    """Lowest level that is written."""
    interrupt_grace_s: float = Field(GRACE_S, gt=0.0, le=3600.0)
    """Seconds in which a job that is told to stop saves, uploads and ends. A few less than the Pod's
    `terminationGracePeriodSeconds`, 30 by default."""
    deadline_s: float | None = Field(None, gt=0.0)
    """Seconds after the start of the process when it saves its progress and ends with exit code 6; the same
    command goes on from there. Null sets no limit."""
