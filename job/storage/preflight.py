"""Before anything slow: can the output's store be written, read and deleted, and does it keep conditions?"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from job.errors import Denied, InputError, IntegrityError, Missing
from job.stopping import raise_if_stopped
from job.storage.store import Changed, ObjectStore

PROBE = ".probe"


@dataclass(frozen=True)
class Preflight:
    """What a probe found out."""

    conditional_writes: bool
    """Whether If-None-Match and If-Match are honoured: what a lease and a promotion rest on."""
    clock_skew_s: float
    """Seconds by which this machine's clock is ahead of the store's; good to a second."""
    seconds: float


def check(store: ObjectStore) -> Preflight:
    """Write, list, read, replace and delete a small object of its own below `store`.

    Raises `Denied`, `Missing` or `StoreFailure` naming what is wrong, `IntegrityError` for a store that gives
    back other bytes than it took.
    """
    started = time.monotonic()
    key, first, second = f"{PROBE}/{uuid.uuid4().hex}", b"written by a probe\n", b"and once more\n"
    next(iter(store.entries(PROBE)), None)  # its answer has a body: a wrong key, region or bucket has a name
    clock_skew_s = time.time() - store.now()
    raise_if_stopped()
    store.write(key, first)
    try:
        _require_kept(store, key, first)
        raise_if_stopped()
        honoured = _refuses(lambda: store.create(key, second))
        raise_if_stopped()
        _, before = store.read(key)
        store.write(key, second)
        honoured = honoured and _refuses(lambda: store.replace(key, first, before))
    finally:
        store.delete([key])
    return Preflight(honoured, round(clock_skew_s, 1), round(time.monotonic() - started, 3))


def _require_kept(store: ObjectStore, key: str, written: bytes) -> None:
    try:
        read, _ = store.read(key)
    except Missing:
        read = b""
    if read != written:
        raise IntegrityError(
            f"{store.uri}/{key}: the store took {len(written)} bytes and gave back {len(read)}, not the same",
            advice="do not use this store before whoever runs it has found out why",
        )


def _refuses(write: Callable[[], str]) -> bool:
    try:
        write()
    except Changed:
        return True
    except (Denied, Missing):
        raise
    except InputError:
        return False  # a store that says it cannot do this
    return False
