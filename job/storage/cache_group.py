"""A folder of cached files, kept in a store as packs that nobody needs to fetch whole or in order.

A pack is `<sha256 of its bytes>.tar` with a sidecar `<same>.json` that lists its members. The sidecar is
written last: a pack without one is invisible, and so is a sidecar whose pack is gone. Packs never change; a
file that changes is packed again, and of several versions of a file the one that was packed last counts.
Packs are deleted only by who has written their newest members into a larger one, wherever else these may be,
so that any number of jobs may merge at once: what one deletes, another's list may still name, but some
visible pack holds it.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from job.errors import IntegrityError, Missing, StoreFailure
from job.logs import Log, raise_if_stopped
from job.storage import tar_files
from job.storage.local import sha256_file
from job.storage.names import below
from job.storage.packs import Packed, Unsteady, Version, pack, staging, versions
from job.storage.store import Advance, Changed, Download, ObjectStore, Stat, Upload, no_advance

PACK_BYTES = 64 * 1024**2
"""New files of a tick go into packs of at most so many bytes: a cut loses no more of an upload."""
MERGED_BYTES = 1024**3
SMALL_PACKS = 32
"""More packs than this that are smaller than half of `MERGED_BYTES` are worth merging."""
READS_AT_ONCE = 8
HALVES_STAY_S = 86_400.0
"""A sidecar follows its pack within moments, unless whoever wrote it was killed in between."""
_HALF = re.compile(r"([0-9a-f]{64})\.(tar|json)")
_OTHER = {"tar": "json", "json": "tar"}
LISTINGS = 5
"""How often a listing is taken again because a merge removed what it named."""


class Member(BaseModel):
    """A file of a pack."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(ge=0)
    mtime_ns: int
    """By the clock of the machine that made it, which ticks every few milliseconds: another version of the
    same size may have the same."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    packed_at: float
    """When it was first packed, by the store's clock; merging keeps it."""

    @property
    def order(self) -> tuple[float, str]:
        """Of two versions of a file the greater counts, in whichever packs they are."""
        return self.packed_at, self.sha256


class Sidecar(BaseModel):
    """What a pack holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = Field(default=1, ge=1, le=1)
    members: dict[str, Member]


@dataclass(frozen=True)
class Moved:
    """What was brought from one side to the other."""

    files: int
    size_bytes: int


@dataclass(frozen=True)
class _Pack:
    stat: Stat
    members: dict[str, Member]

    @property
    def name(self) -> str:
        return self.stat.key.removesuffix(".tar")


class CacheGroup:
    """The files of one folder on this disk, and their packs in `store`. Not for several threads at once."""

    def __init__(self, folder: Path, store: ObjectStore, log: Log) -> None:
        self._folder = folder
        self._store = store
        self._log = log
        self._known: dict[str, Member] = {}
        """The newest version of each member of a visible pack."""
        self._settled: dict[str, Version] = {}
        """Files here that the store need not be given: they are from there or were brought, hold what it has
        under another time, or less."""
        self._damaged: set[str] = set()

    def restore(self) -> Moved:
        """Bring every file that the store has and this disk lacks; files that are here stay as they are.

        What is damaged is told and forgotten. Raises what the store raises.
        """
        files = size_bytes = 0
        for _ in range(LISTINGS):
            packs = self._packs(self._stats())
            self._known = {name: pack.members[name] for name, pack in _newest(packs).items()}
            here = versions(self._folder)
            needed = [p for name, p in _newest(packs).items() if name not in here]
            wanted = list({one.name: one for one in needed}.values())
            if not wanted:
                self._leave_older(here)
                return Moved(files, size_bytes)
            for some in _batches(wanted):
                moved = self._bring_here(some)
                files, size_bytes = files + moved.files, size_bytes + moved.size_bytes
        raise StoreFailure(
            f"{self._store.uri}: packs vanish while they are fetched", advice="run the same command again"
        )

    def bring(self, advance: Advance = no_advance) -> Iterator[Moved]:
        """Upload what the store lacks, a pack a step. Without new files nothing is asked of the store."""
        here = versions(self._folder)
        new = {name: version.size for name, version in here.items() if not self._is_known(name, version)}
        for names in _chunks(new, PACK_BYTES):
            with staging(self._folder) as place:
                target = place / "new.tar"
                try:
                    packed = pack(self._folder, names, target)
                except Unsteady:
                    continue  # the next tick finds it finished
                if packed:
                    now = self._now(packed)
                    self._add(target, {name: _member(one, now) for name, one in packed.items()}, advance)
                    self._settled |= {name: one.version for name, one in packed.items()}
                    yield Moved(len(packed), sum(one.version.size for one in packed.values()))

    def merge(self, advance: Advance = no_advance) -> Moved:
        """Write many small packs as few large ones, from the files on this disk, then delete them.

        What uploads and merges of more than a day ago left, packs or sidecars alone, is deleted as well.
        """
        stats = self._stats()
        self._remove_halves(stats)
        packs = self._packs(stats)
        small = [one for one in packs if one.stat.size < MERGED_BYTES // 2]
        if len(small) <= SMALL_PACKS:
            return Moved(0, 0)
        here = versions(self._folder)
        newest = {name: one.members[name].order for name, one in _newest(packs).items()}
        stays = {(n, member.order) for one in packs if one not in small for n, member in one.members.items()}
        members: dict[str, Member] = {}
        inputs: dict[str, dict[str, Member]] = {}
        for one in small:
            # Of two packs with the same version each needs it: another job may be about to delete the other.
            alive = {
                name: member
                for name, member in one.members.items()
                if member.order == newest[name] and (name, member.order) not in stays
            }
            if all(name in here and self._is(name, member) for name, member in alive.items()):
                members |= alive
                inputs[one.name] = alive
        written = self._write_merged(members, advance)
        # An input may come out again, byte for byte; one whose files vanished meanwhile is still needed.
        done = {name for of in written.values() for name in of}
        old = [name for name, alive in inputs.items() if name not in written and alive.keys() <= done]
        self._store.delete([f"{name}.json" for name in old])
        self._store.delete([f"{name}.tar" for name in old])
        return Moved(len(done), sum(members[name].size for name in done))

    def _write_merged(self, members: dict[str, Member], advance: Advance) -> dict[str, dict[str, Member]]:
        written: dict[str, dict[str, Member]] = {}
        for names in _chunks({name: member.size for name, member in members.items()}, MERGED_BYTES):
            with staging(self._folder) as place:
                target = place / "merged.tar"
                try:
                    packed = pack(self._folder, names, target)
                except Unsteady:
                    continue
                same = {n: members[n] for n, one in packed.items() if one.sha256 == members[n].sha256}
                now = self._now(packed) if len(same) < len(packed) else 0.0
                of_pack = {name: same.get(name) or _member(one, now) for name, one in packed.items()}
                written[self._add(target, of_pack, advance)] = of_pack
        return written

    def _add(self, tar: Path, members: dict[str, Member], advance: Advance) -> str:
        name = sha256_file(tar)
        (sent,) = self._store.upload([Upload(tar, f"{name}.tar")], advance)
        if sent != name:
            raise IntegrityError(
                f"{tar} changed on this disk while it was uploaded", advice="check the disk, then run again"
            )
        self._store.write(f"{name}.json", Sidecar(members=members).model_dump_json().encode())
        self._known |= members
        return name

    def _is_known(self, name: str, version: Version) -> bool:
        known, settled = self._known.get(name), self._settled.get(name)
        if known is None:
            return False
        if settled == version:
            return True
        # What an earlier process left is not read again, there may be much of it; what was replaced since is.
        looks_known = settled is None and (version.size, version.mtime_ns) == (known.size, known.mtime_ns)
        if looks_known or self._is(name, known):
            self._settled[name] = version
            return True
        return False

    def _is(self, name: str, member: Member) -> bool:
        """Return whether a file on this disk is a member: by its content, since a time says too little."""
        try:
            path = self._folder / name
            return path.stat().st_size == member.size and sha256_file(path) == member.sha256
        except FileNotFoundError:
            return False

    def _leave_older(self, here: dict[str, Version]) -> None:
        # What was here before and is older than the store's holds less, or was made alike on another machine.
        for name, version in here.items():
            if name in self._known and version.mtime_ns < self._known[name].mtime_ns:
                self._settled[name] = version

    def _now(self, names: Iterable[str]) -> float:
        """Return the store's time, later than any version of these files that is known: it counts seconds."""
        before = (self._known[name].packed_at for name in names if name in self._known)
        return max(self._store.now(), max(before, default=0.0) + 0.001)

    def _stats(self) -> dict[str, Stat]:
        return {stat.key: stat for stat in self._store.entries()}

    def _remove_halves(self, stats: Mapping[str, Stat]) -> None:
        """Delete packs without a sidecar, and sidecars without a pack, that nobody is about to complete."""
        halves = [
            stat
            for key, stat in stats.items()
            if (match := _HALF.fullmatch(key)) and f"{match[1]}.{_OTHER[match[2]]}" not in stats
        ]
        if halves:
            now = self._store.now()
            self._store.delete([half.key for half in halves if half.modified < now - HALVES_STAY_S])

    def _packs(self, stats: Mapping[str, Stat]) -> list[_Pack]:
        """Return the visible packs."""
        both = [stat for key, stat in stats.items() if key.endswith(".tar") and f"{key[:-4]}.json" in stats]
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            found = list(pool.map(self._described, both))
        return [one for one in found if one is not None and one.name not in self._damaged]

    def _described(self, stat: Stat) -> _Pack | None:
        key = f"{stat.key.removesuffix('.tar')}.json"
        try:
            data, _ = self._store.read(key)
            members = Sidecar.model_validate_json(data).members
            for name in members:
                below(self._folder, name)
        except Missing:  # merged into another since it was listed
            return None
        except (ValidationError, IntegrityError) as error:
            self._tell_damage(key, str(error).splitlines()[0])
            return None
        return _Pack(stat, members)

    def _bring_here(self, packs: Sequence[_Pack]) -> Moved:
        files = size_bytes = 0
        with staging(self._folder) as place:
            items = [Download(one.stat, place / one.stat.key) for one in packs]
            try:
                digests = self._store.download(items, lambda _: raise_if_stopped())
            except (Missing, Changed):
                return Moved(0, 0)  # the next listing names the pack that it was merged into
            for one, item, digest in zip(packs, items, digests, strict=True):
                try:
                    unpacked = place / one.name
                    found = tar_files.unpack(item.target, unpacked, one.stat.key)
                    if digest != one.name or found != {n: member.sha256 for n, member in one.members.items()}:
                        raise IntegrityError("its files are not those that were packed")  # noqa: TRY301
                except IntegrityError as error:
                    self._damaged.add(one.name)
                    self._tell_damage(one.stat.key, str(error))
                    continue
                for name, member in one.members.items():
                    if self._settle(unpacked / name, name, member):
                        files, size_bytes = files + 1, size_bytes + member.size
                item.target.unlink()
        return Moved(files, size_bytes)

    def _settle(self, file: Path, name: str, member: Member) -> bool:
        target = below(self._folder, name)
        if member != self._known.get(name) or target.exists() or not file.is_file():
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        os.utime(file, ns=(member.mtime_ns, member.mtime_ns))
        self._settled[name] = Version.of(file.stat())
        file.replace(target)
        return True

    def _tell_damage(self, key: str, message: str) -> None:
        self._log.warning("store.damaged", key=f"{self._store.uri}/{key}", message=message)


def _newest(packs: Iterable[_Pack]) -> dict[str, _Pack]:
    """Return the pack that holds the newest version of each member."""
    newest: dict[str, _Pack] = {}
    for one in packs:
        for name, member in one.members.items():
            other = newest.get(name)
            if other is None or (other.members[name].order, other.name) < (member.order, one.name):
                newest[name] = one
    return newest


def _member(packed: Packed, now: float) -> Member:
    return Member(
        size=packed.version.size, mtime_ns=packed.version.mtime_ns, sha256=packed.sha256, packed_at=now
    )


def _chunks(sizes: dict[str, int], most_bytes: int) -> Iterator[list[str]]:
    """Deal names, in order, into parts of at most so many bytes, or of one name."""
    part: list[str] = []
    part_bytes = 0
    for name in sorted(sizes):
        if part and part_bytes + sizes[name] > most_bytes:
            yield part
            part, part_bytes = [], 0
        part.append(name)
        part_bytes += sizes[name]
    if part:
        yield part


def _batches(packs: Sequence[_Pack]) -> Iterator[list[_Pack]]:
    """Deal packs so that what lies twice on the disk, packed and unpacked, is bounded."""
    by_name = {one.name: one for one in packs}
    for names in _chunks({name: one.stat.size for name, one in by_name.items()}, MERGED_BYTES):
        yield [by_name[name] for name in names]
