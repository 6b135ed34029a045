"""Where a job works on this machine, and which store its results go to."""

import errno
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from job.errors import InputError, SpecError
from job.spec.job import JobSpec
from job.storage.local import local_path, private_folder
from job.storage.store import ObjectStore
from job.storage.uris import is_remote, open_store, split_s3

CACHE_VARIABLE = "JOB_CACHE_DIR"


@dataclass(frozen=True)
class Places:
    """The folders and the store of a job."""

    root: Path
    """runs/ and stages/ on this machine: the output itself, or a working copy of it."""
    cache: Path
    """rows/, logits/ and downloads on this machine."""
    store: ObjectStore
    """The output: a store rooted at `output.uri`."""
    is_remote: bool
    """Whether the output is elsewhere, so that what is made below `root` must be brought there."""

    conditional_writes: bool = True
    """Whether the store honours conditions; without, leases and promotions look before they write."""

    def without_conditions(self) -> "Places":
        """Return the places with a store that is not trusted to honour conditions."""
        return replace(self, store=open_store(self.store.uri, conditional=False), conditional_writes=False)

    def require_output(self) -> None:
        """Raise `InputError` for an output on this machine that is, or lies in, what is no folder.

        Raises OSError for one that holds no runs yet and cannot be written: there is nothing to read in it.
        """
        if self.is_remote:
            return
        nearest = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not nearest.is_dir():
            raise InputError(
                f"output.uri: {nearest} is a file, not a folder",
                advice="name a folder; one that is not there is made",
            )
        if not (self.root / "runs").exists():
            try:
                with tempfile.TemporaryFile(dir=nearest):
                    pass
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                    error.filename = str(self.root)
                    raise
                # What else is wrong, who makes the folder says better.

    def require_cache(self) -> None:
        """Make the folder for downloads; raises `InputError` where that cannot be."""
        try:
            private_folder(self.cache)
            with tempfile.TemporaryFile(dir=self.cache):
                pass
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(
                f"{self.cache}: cannot be used as the folder for downloads ({error.strerror})",
                advice=f"set cache.uri, or {CACHE_VARIABLE}, to a folder that can be written",
            ) from error

    @classmethod
    def of(cls, spec: JobSpec) -> "Places":
        """Find a spec's places; raises `SpecError` for URIs that name none. Talks to no store yet."""
        uri, given = spec.output.uri, spec.cache.uri
        if given and is_remote(given):
            raise SpecError(
                "cache.uri: the cache must lie on this machine", advice="name a folder of this machine's disk"
            )
        store = open_store(uri)
        if not is_remote(uri):
            root = local_path(uri).resolve()
            cache = local_path(given).resolve() if given else root / "cache"
            return cls(root, cache, store, is_remote=False)
        cache = local_path(given).resolve() if given else default_cache()
        bucket, prefix = split_s3(uri)
        return cls(cache / "work" / bucket / prefix, cache, store, is_remote=True)


def default_cache() -> Path:
    """Return the folder for downloads where no spec and no local output names one.

    Raises `InputError` for a user without a home.
    """
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).resolve()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "segmenter-rl-job"
    except RuntimeError as error:  # a user that the machine does not know, without HOME
        raise InputError(
            "there is no home folder for downloads",
            advice=f"set cache.uri, or {CACHE_VARIABLE}, to a folder that can be written",
        ) from error
