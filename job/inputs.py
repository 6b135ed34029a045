"""What a spec points at: places resolved and checked before anything slow begins, and the run's identity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from job.data.dataset import listing_digest
from job.errors import InputError, SpecError
from job.spec.job import JobSpec
from job.spec.reward import RewardNetworkSpec
from job.spec.runtime import OtherDataset
from job.storage.local import local_path, sha256_file, sha256_folder, sha256_json, write_atomic
from job.storage.run_folder import newest_finished

SYNTHETIC = "synthetic:fundus"
EMBEDDED_SEGMENTER = "embedded:promptable_unet"
EMBEDDED_ROOT = Path(__file__).parent
REWARD_NETWORK = "reward/best_reward_net.safetensors"
POLICY = "policy.safetensors"


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

    def identity(self, spec: JobSpec, memory: Path | None = None) -> str:
        """Return a digest of what is computed, on which bytes.

        A dataset is read once: the folder `memory` remembers its digest while its files have the same names,
        sizes and times. Data that are fetched again have new times and, if nothing changed, the same digest.
        """
        folders = {"data": self.data, "unlabelled": self.unlabelled, "segmenter": self.segmenter}
        folders |= {f"evaluate.datasets.{name}": path for name, path in self.others.items()}
        files = {"reward_network": self.reward_network, "policy": self.policy}
        digests = {name: _folder_digest(path, memory) for name, path in folders.items() if path is not None}
        digests |= {name: sha256_file(path) for name, path in files.items() if path is not None}
        return sha256_json({"spec": spec.identity(), "inputs": digests})


def resolve(spec: JobSpec) -> Inputs:
    """Find every input of `spec`; raises `SpecError` or, for what is not there, `InputError`."""
    unlabelled, policy = spec.data.unlabelled_uri, spec.finetune.policy_uri
    return Inputs(
        data=_dataset(spec.data.uri),
        unlabelled=_folder(unlabelled, "data.unlabelled_uri") if unlabelled else None,
        segmenter=segmenter_folder(spec.segmenter.uri),
        reward_network=_reward_network(spec.reward.network),
        policy=_file_of_run(policy, POLICY, "finetune.policy_uri") if policy else None,
        others=_others(spec.evaluate.datasets),
    )


def run_id_of(identity: str, given: str | None) -> str:
    """Return the run's name: the given one, else 12 hex digits of its identity; raises `SpecError`."""
    if given is None:
        return identity[:12]
    if not given.replace("-", "").replace("_", "").replace(".", "").isalnum() or given.startswith("."):
        raise SpecError(
            f"run id {given!r} cannot name a folder",
            advice="use letters, digits, dots, dashes and underscores",
        )
    return given


def segmenter_folder(uri: str) -> Path:
    """Return the checkpoint folder that `segmenter.uri` names."""
    if uri.startswith("embedded:"):
        if uri != EMBEDDED_SEGMENTER:
            raise SpecError(
                f"segmenter.uri {uri!r} is not embedded in this program",
                advice=f"there is {EMBEDDED_SEGMENTER}",
            )
        return EMBEDDED_ROOT / "segmenters" / "promptable_unet" / "checkpoint"
    return _folder(uri, "segmenter.uri")


def _folder_digest(folder: Path, memory: Path | None) -> str:
    if memory is None:
        return sha256_folder(folder)
    remembered = memory / sha256_json([str(folder), listing_digest(folder)])
    try:
        return remembered.read_text()
    except FileNotFoundError:
        digest = sha256_folder(folder)
        write_atomic(remembered, digest)
        return digest


def _reward_network(network: RewardNetworkSpec) -> Path | None:
    if network.uri is not None:
        return _file_of_run(network.uri, REWARD_NETWORK, "reward.network.uri")
    if network.init == "scratch":
        return None
    return EMBEDDED_ROOT / "reward" / "embedded" / "model.safetensors"


def _dataset(uri: str) -> Path | None:
    if uri.startswith("synthetic:"):
        if uri != SYNTHETIC:
            raise SpecError(
                f"data.uri {uri!r} is not a kind of synthetic data", advice=f"there is {SYNTHETIC}"
            )
        return None
    return _folder(uri, "data.uri")


def _others(datasets: Sequence[OtherDataset]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for position, dataset in enumerate(datasets):
        if dataset.name.lower() in {name.lower() for name in folders}:
            raise SpecError(
                f"evaluate.datasets[{position}].name: {dataset.name!r} is named twice",
                advice="give each dataset a name of its own: the report tells them apart by it",
            )
        folders[dataset.name] = _folder(dataset.uri, f"evaluate.datasets[{position}].uri")
    return folders


def _folder(uri: str, field: str) -> Path:
    path = local_path(uri)
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise InputError(f"{field}: {path} {what}", advice=f"set it, for example with --set {field}=PATH")
    return path.resolve()


def _file_of_run(uri: str, relative: str, field: str) -> Path:
    path = local_path(uri)
    if path.is_file():
        return path.resolve()
    if not path.is_dir():
        raise InputError(
            f"{field}: {path} does not exist", advice="run the job that makes it first, or set another place"
        )
    file = newest_finished(path) / relative
    if not file.is_file():
        raise InputError(f"{field}: {file.parent} has no {file.name}", advice="name a run that has one")
    return file.resolve()
