"""A lease: of several attempts at one run, exactly one works on it and publishes.

`lease.json` is created with If-None-Match and renewed with If-Match. A holder that falls silent for `ttl_s`
loses it to the next attempt, whose number, the fencing token, is one higher. Age is measured by the store's
clock alone, so that machines with wrong clocks do not rob each other.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from job.errors import JobError, Missing, StoreFailure, TryAgain
from job.logs import Log
from job.storage.documents import parse_as
from job.storage.store import Changed, ObjectStore
from job.storage.strict_json import plain

LOOKS = 10
"""How often a lease that changes under our eyes is looked at again."""
SETTLE_S = 2.0
"""Without conditional writes: how long after our write the last of several writers is the one who stays."""
MOST_TTL_S = 86_400.0
"""A document that claims the run for longer, or for ever, is none of ours."""
ENDING_S = 3.0
"""How long the end of the block waits for the store: one that is silent must not keep a process that was told
to stop. The lease runs out by itself."""
TTL_S = 60.0
"""How long a holder may be silent."""
CUT_OFF = "somebody whose connection was cut"
"""Holder of an empty lease: SeaweedFS keeps an empty object of an upload that ends between head and body, as
that of a process that is killed. It runs out as every other."""
_ADVICE = "run the same command again: it goes on from what is saved, once no other attempt is at work"
_UNSURE = "the store has no conditional writes, so two attempts at once cannot be told apart surely"


class Document(BaseModel):
    """What `lease.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    holder: str
    attempt: int = Field(ge=1)
    ttl_s: float = Field(gt=0, le=MOST_TTL_S)
    released: bool
    facts: dict[str, Any]
    """What the holder last said of its work: state, stage, progress, eta_s, exit_code, verdict."""


@dataclass(frozen=True)
class LeaseRecord:
    """A lease as somebody else sees it."""

    holder: str
    attempt: int
    released: bool
    facts: Mapping[str, Any]
    ttl_s: float
    age_s: float
    """Since its last renewal, by the store's clock."""
    etag: str

    @property
    def is_live(self) -> bool:
        """Whether its holder may still be at work."""
        return not self.released and self.age_s <= self.ttl_s


@dataclass
class Lease:
    """The right to work on a run, kept by a thread until `finish`."""

    store: ObjectStore
    key: str
    holder: str
    attempt: int
    taken_over: bool
    """Whether the attempt before went silent without letting go."""
    facts: Callable[[], Mapping[str, Any]]
    on_lost: Callable[[JobError], None]
    log: Log
    ttl_s: float
    conditional: bool
    clock: Callable[[], float]
    etag: str
    renewed_at: float
    """By `clock`, when the last renewal that succeeded was sent: the store counts from later."""
    said: dict[str, Any] = field(default_factory=dict)
    lost: TryAgain | None = None
    finished: bool = False
    turn: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        """Renew now, which proves that the lease is ours; raises `TryAgain` when it is not or may not be."""
        with self.turn:
            self._require_held()
            self._renew(released=False)

    def renew(self) -> None:
        """Renew as the background does: a failure is borne until the lease has run out, then told of."""
        with self.turn:
            if self.finished or self.lost is not None:
                return
            try:
                self._renew(released=False)
            except Exception as error:  # a thread that died of anything would lose the lease in silence
                self._bear(error)

    def finish(self, **facts: Any) -> None:
        """Let go at once, with last facts (state, exit_code, verdict); the second call does nothing.

        A lease that is lost stays its new holder's. A store that fails is told of: the lease runs out.
        """
        with self.turn:
            if self.finished or self.lost is not None:
                return
            self.finished = True
            with suppress(Exception):  # the work may have ended because of what they are asked of
                self.said |= self.facts()
            self.said |= facts
            try:
                self._renew(released=True)
            except JobError as error:
                self.log.warning("store.retrying", what="lease", message=str(error))

    def _renew(self, *, released: bool) -> None:
        if not released:
            self.said |= self.facts()
        data = _encoded(self.holder, self.attempt, self.ttl_s, self.said, released=released)
        for _ in range(LOOKS):
            started = self.clock()
            try:
                if self.conditional:
                    self.etag = self.store.replace(self.key, data, self.etag)
                else:
                    self._require_ours()
                    self.etag = self.store.write(self.key, data)
            except (Changed, Missing):
                # It may be our own renewal, whose answer was lost, that changed it.
                self._require_ours()
            else:
                self.renewed_at = started
                return
        raise StoreFailure(f"{_place(self.store, self.key)}: changes again and again", advice=_ADVICE)

    def _require_ours(self) -> None:
        try:
            document, self.etag = _decoded(self.store, self.key)
        except Missing:
            self._lose("was removed")
        else:
            if (document.holder, document.attempt) != (self.holder, self.attempt):
                self._lose(f"went to {document.holder}, attempt {document.attempt}")
        self._require_held()

    def _bear(self, error: Exception) -> None:
        if self.lost is None and self.clock() - self.renewed_at > self.ttl_s:
            self._lose(f"could not be renewed for {self.ttl_s:.0f} s: {error}")
        if self.lost is None:
            self.log.warning("store.retrying", what="lease", message=str(error))
        else:
            self.on_lost(self.lost)

    def _lose(self, why: str) -> None:
        place = _place(self.store, self.key)
        self.lost = TryAgain(f"{place}: this attempt's lease {why}", advice=_ADVICE)

    def _require_held(self) -> None:
        if self.lost is not None:
            raise self.lost


@contextmanager
def hold(
    store: ObjectStore,
    key: str,
    *,
    holder: str,
    facts: Callable[[], Mapping[str, Any]],
    on_lost: Callable[[JobError], None],
    log: Log,
    ttl_s: float = TTL_S,
    renew_s: float = 20.0,
    conditional: bool = True,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[Lease]:
    """Hold the lease while the block runs; `holder` names this process and no other, ever.

    `facts` is asked at each renewal. `on_lost` is told, in another thread, when the lease is lost: to another
    attempt, or because it could not be renewed in time. Without `conditional` writes two attempts that start
    at once cannot be told apart surely: the last to write stays. Raises `TryAgain` while another one lives.
    """
    said = dict(facts())
    attempt, taken_over, etag, at = _acquire(store, key, holder, ttl_s, said, conditional, clock, wait)
    lease = Lease(
        store,
        key,
        holder,
        attempt,
        taken_over,
        facts,
        on_lost,
        log,
        ttl_s,
        conditional,
        clock,
        etag,
        at,
        said,
    )
    log.info("lease.acquired", attempt=attempt, taken_over=taken_over)
    if not conditional:
        log.warning("job.warning", message=f"{_place(store, key)}: {_UNSURE}")
    ended = threading.Event()

    def renew_until_ended() -> None:
        while not ended.wait(renew_s):
            lease.renew()

    thread = threading.Thread(target=renew_until_ended, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        last = threading.Thread(target=lease.finish, name="lease, last word", daemon=True)
        last.start()
        last.join(ENDING_S)


def read(store: ObjectStore, key: str) -> LeaseRecord | None:
    """Return what is known of a lease, None where there is none; raises `IntegrityError` for another file.

    An empty one is `CUT_OFF`'s.
    """
    for _ in range(LOOKS):
        stat = store.stat(key)
        if stat is None:
            return None
        with suppress(Missing):
            data, etag = store.read(key)
            if etag == stat.etag:  # else renewed in between: its age is not this version's
                age_s = max(0.0, store.now() - stat.modified)
                if not data:
                    return LeaseRecord(CUT_OFF, _attempts(store, key), False, {}, TTL_S, age_s, etag)
                document = _parsed(store, key, data)
                return LeaseRecord(
                    document.holder, document.attempt, document.released, document.facts,
                    document.ttl_s, age_s, etag,
                )  # fmt: skip
    raise StoreFailure(f"{_place(store, key)}: changes again and again", advice=_ADVICE)


def _acquire(
    store: ObjectStore,
    key: str,
    holder: str,
    ttl_s: float,
    said: Mapping[str, Any],
    conditional: bool,
    clock: Callable[[], float],
    wait: Callable[[float], None],
) -> tuple[int, bool, str, float]:
    """Return attempt, whether a silent one was taken over, the version, and when it was asked for."""
    for _ in range(LOOKS):
        found = read(store, key)
        if found is not None and found.is_live:
            raise _held_by(store, key, found)
        attempt = 1 if found is None else found.attempt + 1
        taken_over = found is not None and not found.released
        data, started = _encoded(holder, attempt, ttl_s, said, released=False), clock()
        if not conditional:
            store.write(key, data)
            wait(SETTLE_S)
            document, etag = _decoded(store, key)
            if document.holder == holder:
                return attempt, taken_over, etag, started
            continue
        with suppress(Changed):  # another attempt was quicker
            etag = store.create(key, data) if found is None else store.replace(key, data, found.etag)
            return attempt, taken_over, etag, started
    raise TryAgain(f"{_place(store, key)}: several attempts want this run at once", advice=_ADVICE)


def _held_by(store: ObjectStore, key: str, found: LeaseRecord) -> TryAgain:
    stage = f", at the stage {found.facts['stage']}" if found.facts.get("stage") else ""
    return TryAgain(
        f"{_place(store, key)}: the run is being worked on by {found.holder}, attempt {found.attempt}{stage};"
        f" heard of {found.age_s:.0f} s ago",
        advice=f"wait for it to end; one that was killed is taken over after {found.ttl_s:.0f} s of silence",
    )


def _encoded(holder: str, attempt: int, ttl_s: float, facts: Mapping[str, Any], *, released: bool) -> bytes:
    document = Document(
        holder=holder, attempt=attempt, ttl_s=ttl_s, released=released, facts=plain(facts, null=True)
    )
    return document.model_dump_json(indent=1).encode()


def _decoded(store: ObjectStore, key: str) -> tuple[Document, str]:
    data, etag = store.read(key)
    return _parsed(store, key, data), etag


def _parsed(store: ObjectStore, key: str, data: bytes) -> Document:
    advice = "make sure that nobody works on this run, then remove the object"
    return parse_as(Document, data, _place(store, key), what="what this program writes", advice=advice)


def _attempts(store: ObjectStore, key: str) -> int:
    """Return the highest number of an attempt that has left a file, 1 where none has."""
    begins = f"{key.rpartition('/')[0]}/attempt-"
    numbers = [stat.key.removeprefix(begins).partition("/")[0] for stat in store.entries(begins)]
    return max((int(number) for number in numbers if number.isdecimal()), default=1)


def _place(store: ObjectStore, key: str) -> str:
    return f"{store.uri}/{key}"
