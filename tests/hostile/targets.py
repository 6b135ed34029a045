"""What is fuzzed: every kind of file from elsewhere, an honest one, and how the job reads it."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from job.data.annotations import list_folder
from job.data.images import read_image, read_levels
from job.evaluation.candidate import CandidateFile
from job.finetune.policy import Policy
from job.publish import champion, pointers
from job.publish.training_info import TrainingInfo
from job.reward import network_file
from job.segmenters.promptable_unet import checkpoint_folder
from job.spec.loading import load
from job.storage import lease, tar_files
from job.storage.checksums import Promises
from job.storage.documents import parse_as
from job.storage.local_store import LocalStore
from job.storage.manifest import Manifest
from job.storage.packs import unpack_snapshot
from job.storage.sealed_folder import read_sealed
from job.storage.tensor_file import read_tensors, write_tensors
from tests.hostile import valid
from tests.report.factory import make_info


@dataclass(frozen=True)
class Target:
    """A file name, an honest content for it, and how the job reads the file."""

    file: str
    honest: Callable[[Path], bytes]
    """Given an empty folder to work in."""
    read: Callable[[Path], object]
    prepare: Callable[[Path], object] = lambda folder: None


def _bytes(make: Callable[[], bytes]) -> Callable[[Path], bytes]:
    return lambda folder: make()


def _file(make: Callable[[Path], Path]) -> Callable[[Path], bytes]:
    return lambda folder: make(folder / "honest").read_bytes()


def _checkpoint_part(name: str) -> Target:
    def prepare(folder: Path) -> None:
        valid.checkpoint(folder)

    return Target(
        name,
        lambda folder: (valid.checkpoint(folder / "honest") / name).read_bytes(),
        lambda path: checkpoint_folder.load(path.parent),
        prepare,
    )


def _small_tensors(path: Path) -> Path:
    policy = valid.policy(path.with_name("policy"))
    tensors, document = read_tensors(policy)
    write_tensors(path, tensors, document)
    return path


def _picture(path: Path) -> None:
    read_image(path)
    read_levels(path)


def _champion(path: Path) -> None:
    data = path.read_bytes()
    store = LocalStore(path.parent)
    champion.parse(store, "x", data)
    place = path.parent / valid.MODEL / "champion.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    pointers.named_runs(store)
    pointers.champion_of(store, "x")


def _pointers(path: Path) -> None:
    place = path.parent / valid.MODEL / "champion.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, place)
    pointers.named_runs(LocalStore(path.parent))


def _unpacked(path: Path) -> Path:
    folder = path.with_name("unpacked")
    shutil.rmtree(folder, ignore_errors=True)
    return folder


TARGETS: Mapping[str, Target] = {
    "spec": Target("spec.json", _bytes(valid.spec), lambda path: load(str(path))),
    "annotations": Target(
        "annotations.json", _bytes(valid.annotations), lambda path: list_folder(path.parent), valid.dataset
    ),
    "manifest": Target(
        "manifest.json", _bytes(valid.manifest), lambda path: Manifest.parse(path.read_bytes(), str(path))
    ),
    "sums": Target(
        "SHA256SUMS", _bytes(valid.sums), lambda path: Promises.read([path.name], lambda _: path, "here")
    ),
    "data manifest": Target(
        "manifest.json",
        _bytes(valid.manifest_of_data),
        lambda path: Promises.read([path.name], lambda _: path, "here"),
    ),
    "champion": Target("champion.json", _bytes(valid.champion), _champion),
    "pointers": Target("champion.json", _bytes(valid.champion), _pointers),
    "candidate": Target(
        "candidate.json",
        _bytes(valid.candidate),
        lambda path: parse_as(CandidateFile, path.read_bytes(), str(path), advice="").space,
    ),
    "record": Target(
        "training_info.json",
        _bytes(lambda: make_info("improved", n_images=6).model_dump_json().encode()),
        lambda path: parse_as(TrainingInfo, path.read_bytes(), str(path), advice=""),
    ),
    "lease": Target(
        "lease.json", _bytes(valid.lease), lambda path: lease.read(LocalStore(path.parent), path.name)
    ),
    "stage": Target(
        "done.json",
        lambda folder: (valid.sealed(folder / "honest") / "done.json").read_bytes(),
        lambda path: read_sealed(path.parent, {"stage": "audit"}, advice=""),
        valid.sealed,
    ),
    "tensors": Target("t.safetensors", _file(_small_tensors), read_tensors),
    "policy": Target("policy.safetensors", _file(valid.policy), Policy.load),
    "network": Target("net.safetensors", _file(valid.network), network_file.load),
    "archive": Target(
        "a.tar", _file(valid.archive), lambda path: tar_files.unpack(path, _unpacked(path), path.name)
    ),
    "snapshot": Target(
        "a.tar", _file(valid.archive), lambda path: unpack_snapshot(path, _unpacked(path), path.name)
    ),
    "config": _checkpoint_part("config.json"),
    "weights": _checkpoint_part("model.safetensors"),
    "tokenizer": _checkpoint_part("tokenizer.json"),
    "tokenizer config": _checkpoint_part("tokenizer_config.json"),
    "png": Target("a.png", _bytes(valid.picture), _picture),
    "jpeg": Target("a.jpg", _bytes(lambda: valid.picture(kind="JPEG")), _picture),
    "tiff": Target("a.tif", _bytes(lambda: valid.picture(kind="TIFF")), _picture),
    "gif": Target("a.gif", _bytes(lambda: valid.picture(kind="GIF")), _picture),
    "bmp": Target("a.bmp", _bytes(lambda: valid.picture(kind="BMP")), _picture),
    "ppm": Target("a.ppm", _bytes(lambda: valid.picture(kind="PPM")), _picture),
}
