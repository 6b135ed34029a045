"""Every way by which a file from elsewhere comes into the job, from its path to the program's answer."""

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from job import segmenters
from job.cli import main
from job.data.images import read_image, read_levels
from job.errors import EXIT_OK, JobError
from job.finetune.observation import Observer
from job.finetune.policy import Policy
from job.finetune.ppo import read_zip
from job.logs import Output
from job.reward import network_file
from job.spec.loading import load
from job.spec.segmenter import PromptableUNetSpec
from job.storage import lease, tar_files
from job.storage.checksums import Promises
from job.storage.local_store import LocalStore
from job.storage.names import below
from job.storage.packs import unpack_snapshot
from job.storage.sealed_folder import read_sealed
from job.storage.tensor_file import read_tensors
from tests.hostile import valid


@dataclass(frozen=True)
class Answer:
    """How the program ended, and what it said on the way."""

    exit_code: int
    text: str


Door = Callable[[Path], Answer]


def loading(read: Callable[[Path], object]) -> Door:
    """Return the door of a loader that a stage calls: a `JobError` ends the job with its code."""

    def door(path: Path) -> Answer:
        try:
            read(path)
        except JobError as error:
            return Answer(error.exit_code, f"{error}\n{error.advice}")
        return Answer(EXIT_OK, "")

    return door


def command(*words: str) -> Door:
    """Return the door of a command line, where `{}` stands for the path."""

    def door(path: Path) -> Answer:
        heard = io.StringIO()
        with redirect_stdout(heard), redirect_stderr(heard):
            code = main([word.format(path) for word in words])
        return Answer(code, heard.getvalue())

    return door


def _picture(path: Path) -> None:
    read_image(path)
    read_levels(path)


def _segmenter(folder: Path) -> None:
    spec = PromptableUNetSpec(uri=str(folder))
    segmenters.content_key(spec, folder)
    segmenters.load(spec, folder, "cpu", Output(stream=io.StringIO()).log)


def _policy_zip(path: Path) -> None:
    policy = Policy.load(valid.policy(path.with_name("policy.safetensors")))
    assert isinstance(policy.observer, Observer)
    read_zip(path, policy.observer, policy.actions)


def _sums(path: Path) -> None:
    Promises.read([path.name], lambda name: path.parent / name, str(path.parent))


def _keys(path: Path) -> None:
    below(path.parent, path.read_bytes().decode())


DOORS: dict[str, Door] = {
    "spec": command("validate", "{}"),
    "spec loader": loading(lambda path: load(str(path))),
    "dataset": command("dataset", "check", "{}"),
    "picture": loading(_picture),
    "archive": loading(lambda path: tar_files.unpack(path, path.with_name("unpacked"), path.name)),
    "snapshot": loading(lambda path: unpack_snapshot(path, path.with_name("unpacked"), path.name)),
    "sums": loading(_sums),
    "keys": loading(_keys),
    "tensors": loading(read_tensors),
    "network": loading(network_file.load),
    "policy": loading(Policy.load),
    "zip": loading(_policy_zip),
    "segmenter": loading(_segmenter),
    "candidate": command("predict", "{}/run", "{}/a.png", "--output", "{}/masks"),
    "manifest": command("promote", "{}/models/x", "--to", "1"),
    "champion": command("promote", "{}/models/x", "--to", "previous"),
    "record": command("compare", "{}/runs/x/1", "{}/runs/x/2"),
    "lease": loading(lambda path: lease.read(LocalStore(path.parent), path.name)),
    "stage": loading(lambda folder: read_sealed(folder, {"stage": "audit"}, advice="remove it")),
}
