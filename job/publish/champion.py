"""`models/NAME/champion.json`: whose candidate is in use, what it was worth, and which one it followed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from job.errors import IntegrityError, Missing
from job.metrics.statistics import Interval, Uplift
from job.publish.pointers import CHAMPION, MODELS, RunPath
from job.storage.documents import parse_as
from job.storage.store import Changed, ObjectStore

MOST_EARLIER = 50
"""Champions that are remembered before the previous one."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class RunPointer(_Record):
    """A published run, by place and by content."""

    run: RunPath
    manifest_sha256: str


class Reign(RunPointer):
    """A run that became the champion."""

    promoted_at: str
    """ISO 8601, UTC; of a champion that was brought back, when that was."""


class ChampionFile(_Record):
    """The whole document."""

    schema_version: Literal[1] = 1
    name: str
    generation: int
    """1 for the first champion, one more with every change."""
    current: Reign
    previous: Reign | None
    """The champion before: what a rollback goes back to."""
    earlier: list[Reign] = Field([], max_length=MOST_EARLIER)
    """Those before `previous`, newest first: where further rollbacks go."""
    by: Literal["job", "hand"]
    """Whether a job promoted it because it was better, or a person with `promote`."""
    reason: str
    """In a sentence."""
    candidate: str
    """What it does, in one line."""
    dice: Interval
    """Of the candidate on the test images of its run."""
    vs_noop: Uplift
    vs_champion: Uplift | None
    """Paired Dice difference to the champion before, on the same test images; null for the first, and where a
    person promoted a run that was not compared with it."""
    data_fingerprint: str
    """sha256 over the digests of its run's splits."""

    @property
    def followed(self) -> list[Reign]:
        """All champions before, newest first."""
        return [*([self.previous] if self.previous else []), *self.earlier]

    def is_of(self, run: str, manifest_sha256: str) -> bool:
        """Tell whether this very run, by place and content, is the champion."""
        return (self.current.run, self.current.manifest_sha256) == (run, manifest_sha256)


class LastFile(_Record):
    """`models/NAME/last.json`: the last run of a name that a promoting job finished, whatever it decided."""

    schema_version: Literal[1] = 1
    run: RunPointer
    identity: str
    """Of spec and inputs: an equal one tonight means that nothing is new."""
    versions: dict[str, str]
    """Program and libraries: new ones are something new."""
    exit_code: int
    """How that run ended: a night with nothing new ends the same."""
    finished_at: str
    """When, ISO 8601 in UTC."""


@dataclass(frozen=True)
class Incumbent:
    """The champion that a job meets: its record, the version of the record, and its run on this machine."""

    record: ChampionFile
    etag: str
    """Of `champion.json`: what promotion replaces."""
    folder: Path
    """candidate.json, the chooser's and the reward network's files, and the profile of its run's images."""
    segmenter: Path | None = None
    """Its segmenter's folder where that was fetched; None: where its candidate.json says."""


def read(store: ObjectStore, name: str) -> tuple[ChampionFile, str] | None:
    """Return `champion.json` and its etag, None where there is none; raises `IntegrityError` for another."""
    found = read_bytes(store, name)
    return None if found is None else (parse(store, name, found[0]), found[1])


def read_bytes(store: ObjectStore, name: str) -> tuple[bytes, str] | None:
    """Return the bytes of `champion.json`, whatever they are, and its etag; None where there is none."""
    try:
        return store.read(key(name, CHAMPION))
    except Missing:
        return None


def parse(store: ObjectStore, name: str, data: bytes) -> ChampionFile:
    """Read the document; raises `IntegrityError` for one that is damaged or of another name."""
    where = f"{store.uri}/{key(name, CHAMPION)}"
    advice = f"put a run in use, which writes it anew: {verb(store, name)} --to RUN_ID"
    record = parse_as(ChampionFile, data, where, what="what this program writes", advice=advice)
    if record.name != name:
        raise IntegrityError(
            f"{where} is not what this program writes: it is of {record.name!r}", advice=advice
        )
    return record


def write(store: ObjectStore, record: ChampionFile, etag: str | None) -> bool:
    """Write the record in place of the version `etag`, or of none; returns False where there is another."""
    data = to_bytes(record)
    try:
        if etag is None:
            store.create(key(record.name, CHAMPION), data)
        else:
            store.replace(key(record.name, CHAMPION), data, etag)
    except Changed:
        # An answer that got lost on its way, and was asked for again, may have been a yes.
        found = read_bytes(store, record.name)
        return found is not None and found[0] == data
    return True


def key(name: str, file: str) -> str:
    """Return the key of a model's file."""
    return f"{MODELS}/{name}/{file}"


def verb(store: ObjectStore, name: str) -> str:
    """Return the command that changes a champion, for advice."""
    return f"promote {store.uri}/{MODELS}/{name}"


def to_bytes(record: ChampionFile | LastFile) -> bytes:
    """Return a document as it is stored."""
    return (record.model_dump_json(indent=1) + "\n").encode()
