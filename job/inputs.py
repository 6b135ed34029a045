"""What a spec points at: found and checked before anything slow begins, known by content, fetched late."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from job.data.dataset import listing_digest, require_readable
from job.errors import InputError, SpecError
from job.places import Places
from job.publish.local_run import champion_run, require_as_sealed
from job.publish.pointers import CHAMPION, MODELS
from job.publish.published import PublishedRun, newest_run
from job.segmenters.checkpoint_kind import require_no_run
from job.spec.job import JobSpec
from job.spec.reward import RewardNetworkSpec
from job.storage.fetch import Fetcher, Listing, listing, listing_of_file
from job.storage.local import local_path, sha256_file, sha256_folder, sha256_json, write_atomic
from job.storage.local_store import LocalStore
from job.storage.object_cache import SEALED_NS
from job.storage.uris import is_remote, open_store, parent_and_name

if TYPE_CHECKING:
    from job.publish.champion import Incumbent

SYNTHETIC = "synthetic:fundus"
EMBEDDED_SEGMENTER = "embedded:promptable_unet"
EMBEDDED_ROOT = Path(__file__).parent
REWARD_NETWORK = "reward/best_reward_net.safetensors"
POLICY = "policy.safetensors"
TRAINED = "segmenter"
"""Folder of a run with the checkpoints that its phases of weights made."""
IDENTITIES = "identities"
"""Folder of the cache that remembers digests of large files and folders."""
TENSORS = ".safetensors"
RUN_ID_VARIABLE = "JOB_RUN_ID"
LONGEST_RUN_ID = 200
"""Bytes: file systems take 255, some of which names of files beside it need."""
"""Names the run where the command line does not: a Pod's manifest sets it to the name of its Job."""
_AT_ONCE = 8


@dataclass(frozen=True)
class Inputs:
    """Local places of everything that a job reads."""

    data: Path | None
    """The dataset folder; None for synthetic images."""
    unlabelled: Path | None
    segmenter: Path
    """The checkpoint folder."""
    reward_network: Path | None
    """The file that training starts from, or that is taken as it is; None with `init: scratch`."""
    policy: Path | None
    others: Mapping[str, Path] = field(default_factory=dict)
    """Folders of `evaluate.datasets` by name."""
    champion: "Incumbent | None" = None
    """What a promoting job must beat; None where there is no champion, or nothing is promoted."""
    settle: Callable[[], None] = lambda: None
    """Waits until all of it is on the disk; raises what the disk says."""


@dataclass(frozen=True)
class RunFile:
    """A file of a finished run in a store."""

    run: PublishedRun
    path: str
    cache: Path
    """Where it is brought to."""

    @property
    def sha256(self) -> str:
        """What the run's manifest says of it."""
        return self.run.manifest.files[self.path].sha256

    def bring(self) -> Path:
        """Return the file on this machine."""
        return self.run.bring(self.cache, only=[self.path]) / self.path


Folder = Path | Listing
File = Path | Listing | RunFile


@dataclass(frozen=True)
class Found:
    """Everything that a spec points at, here or in a store, of which nothing has been fetched."""

    data: Folder | None
    unlabelled: Folder | None
    segmenter: Folder
    reward_network: File | None
    policy: File | None
    others: Mapping[str, Folder]
    files: "Files"

    def of(self, spec: JobSpec) -> "Found":
        """Return what a point of the sweep, or a fold, points at: datasets and segmenter are the same."""
        return replace(
            self,
            reward_network=_reward_network(spec.reward.network, self.files),
            policy=_policy(spec.policy.policy_uri, self.files),
        )

    def identity(self, spec: JobSpec, memory: Path | None = None) -> str:
        """Return a digest of what is computed, on which content.

        A folder on this machine is read once: the folder `memory` remembers its digest while its files have
        the same names, sizes and times. A folder in a store counts by its listing, and nothing is fetched.
        """
        folders = {"data": self.data, "unlabelled": self.unlabelled, "segmenter": self.segmenter}
        folders |= {f"evaluate.datasets.{name}": folder for name, folder in self.others.items()}
        files = {"reward_network": self.reward_network, "policy": self.policy}
        digests = {name: _folder_digest(one, memory) for name, one in folders.items() if one is not None}
        digests |= {name: _file_digest(one) for name, one in files.items() if one is not None}
        return sha256_json({"spec": spec.identity(), "inputs": digests})

    def fetch(self, fetcher: Fetcher) -> Inputs:
        """Bring everything to this machine; raises what `Fetcher.folder` and `PublishedRun.bring` raise."""
        inputs = Inputs(
            data=None if self.data is None else _here(self.data, fetcher),
            unlabelled=None if self.unlabelled is None else _here(self.unlabelled, fetcher),
            segmenter=_here(self.segmenter, fetcher),
            reward_network=None if self.reward_network is None else _file_here(self.reward_network, fetcher),
            policy=None if self.policy is None else _file_here(self.policy, fetcher),
            others={name: _here(folder, fetcher) for name, folder in self.others.items()},
            settle=fetcher.settle,
        )
        fetcher.verify()  # what was brought first is digested while the rest is on its way
        if isinstance(self.segmenter, Listing):
            from job.segmenters.file_digests import hand_over

            # Its content key covers many GB that were digested a moment ago.
            hand_over(fetcher.digests(self.segmenter), self.files.cache / IDENTITIES, SEALED_NS)
        return inputs


class Files:
    """Files of runs, each looked up once: the newest run of a name stays the same throughout a job."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._found: dict[tuple[str, str], File] = {}

    def find(self, uri: str, relative: str, field: str) -> File:
        """Return a file that is named itself or by the run that made it."""
        if (uri, relative) not in self._found:
            with _named(field):
                found = self._in_store(uri, relative) if is_remote(uri) else _on_this_disk(uri, relative)
            self._found[uri, relative] = found
        return self._found[uri, relative]

    def _in_store(self, uri: str, relative: str) -> File:
        if uri.endswith(TENSORS):
            return listing_of_file(uri)
        root, name = parent_and_name(uri)
        above, kind = parent_and_name(root)
        run = champion_run(open_store(above), name) if kind == MODELS else newest_run(open_store(root), name)
        if relative not in run.manifest.files:
            raise _no_such_file(run.uri, relative)
        return RunFile(run, relative, self.cache)


def find(spec: JobSpec, places: Places) -> Found:
    """Find every input of `spec`, asking stores for several at once.

    Raises `SpecError` or, for what is not there, denied or no use, an `InputError` that names the field.
    """
    unlabelled = spec.data.unlabelled_uri
    others = {
        dataset.name: (dataset.uri, f"evaluate.datasets[{position}].uri")
        for position, dataset in enumerate(spec.evaluate.datasets)
    }
    files = Files(places.cache)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        data = pool.submit(_dataset, spec.data.uri)
        more = pool.submit(_folder, unlabelled, "data.unlabelled_uri", unpack=True) if unlabelled else None
        segmenter = pool.submit(find_segmenter, spec.segmenter.uri)
        network = pool.submit(_reward_network, spec.reward.network, files)
        policy = pool.submit(_policy, spec.policy.policy_uri, files)
        listed = {
            name: pool.submit(_folder, uri, place, unpack=True) for name, (uri, place) in others.items()
        }
    return Found(
        data=data.result(),
        unlabelled=more.result() if more else None,
        segmenter=segmenter.result(),
        reward_network=network.result(),
        policy=policy.result(),
        others={name: folder.result() for name, folder in listed.items()},
        files=files,
    )


def run_id_of(identity: str, given: str | None) -> str:
    """Return the run's name: the given one, else `JOB_RUN_ID`, else 12 hex digits of its identity.

    Raises `SpecError` for a name that is none.
    """
    if given is None:
        given = os.environ.get(RUN_ID_VARIABLE) or identity[:12]
    if not given.replace("-", "").replace("_", "").replace(".", "").isalnum() or given.startswith("."):
        raise SpecError(
            f"run id {given!r} cannot name a folder",
            advice="use letters, digits, dots, dashes and underscores",
        )
    if len(given.encode()) > LONGEST_RUN_ID:
        raise SpecError(
            f"run id {given[:20]!r}... cannot name a folder: it has {len(given.encode())} bytes",
            advice=f"use at most {LONGEST_RUN_ID}",
        )
    return given


def segmenter_folder(uri: str, fetcher: Fetcher | None = None) -> Path:
    """Return the checkpoint folder that `segmenter.uri` names; one in a store needs a `fetcher`."""
    found = find_segmenter(uri)
    if isinstance(found, Path):
        return found
    if fetcher is None:
        raise ValueError(f"{uri} is in a store: a fetcher must bring it")
    return fetcher.folder(found)


def _here(found: Folder, fetcher: Fetcher) -> Path:
    return found if isinstance(found, Path) else fetcher.bring(found)


def _file_here(found: File, fetcher: Fetcher) -> Path:
    if isinstance(found, RunFile):
        return found.bring()
    return found if isinstance(found, Path) else fetcher.file(found)


def _folder_digest(folder: Folder, memory: Path | None) -> str:
    if isinstance(folder, Listing):
        return folder.digest
    require_readable(folder)
    if memory is None:
        return sha256_folder(folder)
    remembered = memory / sha256_json([str(folder), listing_digest(folder)])
    try:
        return remembered.read_text()
    except FileNotFoundError:
        digest = sha256_folder(folder)
        write_atomic(remembered, digest)
        return digest


def _file_digest(file: File) -> str:
    if isinstance(file, Listing):
        return file.digest
    return file.sha256 if isinstance(file, RunFile) else sha256_file(file)


def find_segmenter(uri: str, setting: str = "segmenter.uri") -> Folder:
    """Find the folder of a segmenter, fetching nothing; raises what `find` raises.

    `setting` is the field, or the option, with which the user names another one.
    """
    if not uri.startswith("embedded:"):
        folder = _folder(uri, setting)
        require_no_run(_telling_files(folder), uri, setting)
        if isinstance(folder, Path) and folder.parent.name == TRAINED:
            require_as_sealed(folder.parents[1], [f"{TRAINED}/{folder.name}"])
        return folder
    if uri != EMBEDDED_SEGMENTER:
        raise SpecError(
            f"segmenter.uri {uri!r} is not embedded in this program", advice=f"there is {EMBEDDED_SEGMENTER}"
        )
    return EMBEDDED_ROOT / "segmenters" / "promptable_unet" / "checkpoint"


def _telling_files(folder: Folder) -> list[str]:
    """Return the files that tell a checkpoint from a run, relative to the folder."""
    if isinstance(folder, Listing):
        return [found.key for found in folder.objects]
    below = "*/config.json" if folder.name == TRAINED else f"*/{TRAINED}/*/config.json"
    paths = [path for pattern in ("*", f"{TRAINED}/*/config.json", below) for path in folder.glob(pattern)]
    return [path.relative_to(folder).as_posix() for path in paths]


def _reward_network(network: RewardNetworkSpec, files: Files) -> File | None:
    if network.uri is not None:
        return files.find(network.uri, REWARD_NETWORK, "reward.network.uri")
    if network.init == "scratch":
        return None
    return EMBEDDED_ROOT / "reward" / "embedded" / "model.safetensors"


def _policy(uri: str | None, files: Files) -> File | None:
    return files.find(uri, POLICY, "finetune.policy_uri") if uri else None


def _dataset(uri: str) -> Folder | None:
    if not uri.startswith("synthetic:"):
        return _folder(uri, "data.uri", unpack=True)
    if uri != SYNTHETIC:
        raise SpecError(f"data.uri {uri!r} is not a kind of synthetic data", advice=f"there is {SYNTHETIC}")
    return None


def _folder(uri: str, field: str, *, unpack: bool = False) -> Folder:
    if is_remote(uri):
        with _named(field):
            return listing(uri, unpack=unpack)
    path = local_path(uri)
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        how = f"{field} PATH" if field.startswith("-") else f"--set {field}=PATH"
        raise InputError(f"{field}: {path} {what}", advice=f"set it, for example with {how}")
    return path.resolve()


def _on_this_disk(uri: str, relative: str) -> Path:
    path = local_path(uri)
    if path.is_file():
        return path.resolve()
    if not path.is_dir():
        raise InputError(
            f"{path} does not exist", advice="run the job that makes it first, or set another place"
        )
    path = path.resolve()
    if (path / CHAMPION).is_file():
        run = champion_run(LocalStore(path.parent.parent), path.name)
    else:
        run = newest_run(LocalStore(path.parent), path.name)
    file = run.bring(path) / relative
    if not file.is_file():
        raise _no_such_file(run.uri, relative)
    return file


def _no_such_file(run_uri: str, relative: str) -> InputError:
    return InputError(f"{run_uri} has no {relative}", advice="name a run that has one")


@contextmanager
def _named(field: str) -> Iterator[None]:
    """Say in an error about a place which field of the spec names it."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{field}: {error}", advice=error.advice) from error
