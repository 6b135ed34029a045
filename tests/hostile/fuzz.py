"""Files changed at random, at every door: nothing but a `JobError` may come out, quickly.

`python -m tests.hostile.fuzz --minutes 10` goes on for that long and keeps what it finds in a folder;
`tests/hostile/test_fuzz.py` does a little of it each time. What it found stays in the corpus.
"""

import argparse
import hashlib
import random
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from job.errors import JobError
from tests.hostile.changing import changed
from tests.hostile.targets import TARGETS, Target

MOST_SECONDS = 10.0
"""Of the processor's time for one file; a machine that others use needs some slack."""


@dataclass(frozen=True)
class Finding:
    """What came out of a door that should not have."""

    target: str
    data: bytes
    what: str


def attempt(target: Target, folder: Path, data: bytes) -> str:
    """Have the job read `data`; returns what is wrong with how it went, empty when it was read or refused."""
    path = folder / target.file
    path.write_bytes(data)
    started = time.process_time()
    try:
        target.read(path)
    except JobError as error:
        if not str(error).strip():
            return "an error without a word"
    except BaseException as error:  # what Rust panics with is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return "".join(traceback.format_exception(error, limit=-4))
    seconds = time.process_time() - started
    return f"it took {seconds:.1f} s" if seconds > MOST_SECONDS else ""


def fuzz(name: str, *, seed: int, count: int, until: float | None = None) -> list[Finding]:
    """Try `count` changed files at a door, or as many as there is time for; equal seeds, equal files."""
    target, rng, found = TARGETS[name], random.Random(f"{name} {seed}"), list[Finding]()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        work, folder = Path(place, "work"), Path(place, "door")
        work.mkdir()
        honest = target.honest(work)
        folder.mkdir()
        target.prepare(folder)
        assert not attempt(target, folder, honest), f"{name}: the honest file is refused"
        for _ in range(count):
            if until is not None and time.monotonic() > until:
                break
            data = changed(honest, rng)
            what = attempt(target, folder, data)
            if what:
                found.append(Finding(name, data, what))
    return found


def main() -> int:
    """Go through all doors in turn until the time is over; returns 1 when something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for what is found")
    options = parser.parse_args()
    until, seed, tried, kinds = time.monotonic() + 60 * options.minutes, options.seed, 0, set[str]()
    while time.monotonic() < until:
        for name in TARGETS:
            found = fuzz(name, seed=seed, count=200, until=until)
            tried += 200
            for finding in found:
                kind = f"{finding.target}: {finding.what.strip().splitlines()[-1]}"
                if kind not in kinds:
                    kinds.add(kind)
                    options.keep.mkdir(parents=True, exist_ok=True)
                    place = options.keep / f"{name}-{hashlib.sha256(finding.data).hexdigest()[:12]}"
                    place.write_bytes(finding.data)
                    print(f"{place}\n{finding.what}", flush=True)  # noqa: T201
        seed += 1
    print(f"{tried:,} files from seed {options.seed} on, {len(kinds)} findings")  # noqa: T201
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
