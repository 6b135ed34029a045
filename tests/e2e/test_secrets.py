"""Canaries in the environment, and in the places where users wrongly put secrets, appear in no channel."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from job.data.synthetic import make_dataset
from job.progress import SILENT
from job.storage.store import Upload
from job.storage.uris import open_store
from tests.e2e.attempts import Attempt
from tests.e2e.child import ROOT, TINY
from tests.e2e.watched import Watched, watch
from tests.fault_proxy import Fault, Refuse, open_proxy
from tests.s3_server import Server

HUB = "hf_canaryCANARYcanaryCANARY0123456789"
PROXY = "canary-proxy-password"
SIGNED = f"X-Amz-Credential=AKIACANARYCANARY0001%2Fs3&X-Amz-Signature={'c0ffee' * 10}"
WRONG_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYCANARYKEY"
CANARIES = {
    "HF token": HUB, "proxy": PROXY, "signature": "c0ffee" * 10, "link's key": "AKIACANARYCANARY",
    "wrong key": WRONG_KEY, "session token": "canary-session-token",
}  # fmt: skip
LOUD = {
    "PYTHONWARNINGS": "always", "PYTHONFAULTHANDLER": "1", "RUST_LOG": "trace", "RUST_BACKTRACE": "full",
    "AWS_DEBUG": "1", "AWS_LOG_LEVEL": "debug", "BOTO_DEBUG": "1", "BOTOCORE_DEBUG": "1",
}  # fmt: skip
"""Whatever makes a library somewhere talk."""


@dataclass
class Stage:
    """A folder for a job, the store it talks to, and what its environment holds."""

    server: Server
    folder: Path
    uri: str
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
            **self.server.environment, **LOUD, "HF_TOKEN": HUB,
            "HTTPS_PROXY": f"http://canary-user:{PROXY}@127.0.0.1:9",
            "DATA_LINK": f"https://store.example/key?{SIGNED}",
            "JOB_CACHE_DIR": str(self.folder / "cache"), "JOB_TERMINATION_LOG": str(self.last_words),
            **self.extra,
        }  # fmt: skip

    @property
    def last_words(self) -> Path:
        return self.folder / "termination-log"

    def call(
        self, *words: str, program: tuple[str, ...] = ("-m", "job")
    ) -> "subprocess.CompletedProcess[str]":
        """Run a verb to its end; what it says is kept among the channels."""
        done = subprocess.run(
            [sys.executable, *program, *words], cwd=self.folder, env=self.environment, timeout=300,
            capture_output=True, text=True,
        )  # fmt: skip
        number = len(list(self.folder.glob("said-*")))
        (self.folder / f"said-{number}").write_text(done.stdout + done.stderr)
        return done

    def leaks(self) -> list[str]:
        """Search every file below the folder and every object of the store; return what was found where."""
        canaries = {**CANARIES, "access key": self.server.access_key, "secret key": self.server.secret_key}
        spelled = {
            spelling.encode(): name
            for name, value in canaries.items()
            for spelling in (value, quote(value, safe=""))
        }
        return [
            f"{name} in {channel}"
            for channel, content in self._channels()
            for spelling, name in spelled.items()
            if spelling in content or spelling in channel.encode()
        ]

    def _channels(self) -> Iterator[tuple[str, bytes]]:
        for path in self.folder.rglob("*"):
            if not path.is_file():
                continue
            yield str(path.relative_to(self.folder)), path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    yield from ((f"{path.name}:{name}", archive.read(name)) for name in archive.namelist())
        store = open_store(self.uri)
        for entry in store.entries():
            yield f"{self.uri}/{entry.key}", store.read(entry.key)[0]


@pytest.fixture
def stage(s3_server: Server, s3_prefix: str, tmp_path: Path) -> Stage:
    return Stage(s3_server, tmp_path, s3_prefix)


def tiny(stage: Stage, *more: str) -> tuple[str, ...]:
    place = ("--set", f"output.uri={stage.uri}", "--set", "runtime.log_level=debug")
    return (TINY, "--run-id", "r", "--set", "runtime.threads=1", *place, *more)


def test_a_run_that_succeeds_says_nothing_and_leaves_nothing(stage: Stage) -> None:
    """Lines, files, objects, arguments of children and other verbs' answers: none has a canary.

    On the way: nothing listens on a port, and whatever the umask, no file is anybody's to change.
    """
    watched = watch(*tiny(stage), cwd=stage.folder, environment=stage.environment, umask=0)
    assert watched.finished.code == 0, watched.finished.stderr
    assert watched.finished.stderr == ""
    for line in watched.finished.stdout.splitlines():
        json.loads(line)  # whatever a library said would be none
    for words in (
        ("status", stage.uri, "--json"), ("plan", *tiny(stage)[:1], "--set", f"output.uri={stage.uri}"),
        ("validate", TINY, "--format", "json"), ("doctor", stage.uri, "--format", "json"),
        ("run", *tiny(stage)),
    ):  # fmt: skip
        done = stage.call(*words)
        assert done.returncode in (0, 3), done.stderr  # a doctor may find the machine wanting
    assert not stage.leaks()
    _assert_quiet(watched, stage.environment)
    open_to_others = [path for path in (stage.folder / "cache").rglob("*") if path.stat().st_mode & 0o022]
    assert not open_to_others
    assert (stage.folder / "cache").stat().st_mode & 0o777 == 0o700


def _assert_quiet(watched: Watched, environment: Mapping[str, str]) -> None:
    assert watched.looks > 20
    assert watched.ports == set()
    secrets = {*CANARIES.values(), environment["AWS_SECRET_ACCESS_KEY"], environment["AWS_ACCESS_KEY_ID"]}
    assert not [words for words in watched.arguments if any(one.encode() in words for one in secrets)]


FAILURES: dict[str, tuple[int, tuple[str, ...], dict[str, str]]] = {
    "a secret as a value": (2, ("--set", f"actions.prompts[0]=use {HUB}"), {}),
    "a secret in a URI": (2, ("--set", f"data.uri=https://me:{PROXY}@host/x"), {}),
    "a signed URI": (2, ("--set", f"data.unlabelled_uri=https://host/x?{SIGNED}"), {}),
    "a secret under its name": (2, ("--set", f"data.token={PROXY}x"), {}),
    "a secret as an option": (2, ("--hf-token", HUB), {}),
    "a URI of a place with a password": (2, ("--set", f"output.uri=s3://me:{PROXY}@bucket/x"), {}),
    "a wrong key": (3, (), {"AWS_SECRET_ACCESS_KEY": WRONG_KEY, "AWS_SESSION_TOKEN": "canary-session-token"}),
    "a password in the endpoint": (3, (), {"AWS_ENDPOINT_URL_S3": f"http://me:{PROXY}@"}),
    "an invalid result": (5, ("--set", "checks.min_mask_diversity=0.99"), {}),
    "a deadline": (6, ("--set", "runtime.deadline_s=2"), {}),
}


@pytest.mark.parametrize("cause", FAILURES)
def test_a_run_that_fails_tells_why_and_no_secret(stage: Stage, cause: str) -> None:
    """Each with its exit code and its last words, which hold no canary either."""
    code, more, changes = FAILURES[cause]
    stage.extra = changes
    done = stage.call("run", *tiny(stage, *more))
    assert done.returncode == code, done.stderr
    assert '"job.failed"' in done.stdout
    assert stage.last_words.read_text()
    assert not stage.leaks()


@pytest.mark.parametrize("operation", ["PutObject", "GetObject", "List*"])
def test_a_store_that_repeats_the_request_in_its_refusal_is_not_quoted(stage: Stage, operation: str) -> None:
    """The Authorization header of a refused request stays between us and the store; so for bulk transfers."""
    data = f"{stage.uri}/data"
    make_dataset(
        stage.folder / "made", train=6, validation=4, test=6, unlabelled=0, size=64, seed=0,
        annotation="all", progress=SILENT,
    )  # fmt: skip
    made = [path for path in (stage.folder / "made").rglob("*") if path.is_file()]
    open_store(data).upload(
        [Upload(path, path.relative_to(stage.folder / "made").as_posix()) for path in made]
    )
    key = {"PutObject": "*stages*", "GetObject": "*data/images*", "List*": "*data*"}[operation]
    echo = Refuse(403, "AccessDenied", echoes=True)
    with open_proxy(stage.server, Fault(echo, operation, key, times=None)) as proxy:
        stage.extra = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        done = stage.call("run", *tiny(stage, "--set", f"data.uri={data}"))
        assert any(seen.effect is echo for seen in proxy.seen)
    assert done.returncode == 3, done.stderr
    assert not stage.leaks()


def test_what_does_not_keep_its_digest_is_told_without_a_secret(stage: Stage) -> None:
    """An object of the input is not what SHA256SUMS promises."""
    store = open_store(f"{stage.uri}/data")
    store.write("images/a.png", b"no picture")
    store.write("SHA256SUMS", f"{'0' * 64}  images/a.png\n".encode())
    done = stage.call("run", *tiny(stage, "--set", f"data.uri={stage.uri}/data"))
    assert done.returncode == 4, done.stderr
    assert not stage.leaks()


def test_a_defect_whose_words_are_secrets_is_told_without_them(stage: Stage) -> None:
    """A stage, a thread, a warning and a library's logger say them; frames are told, locals are not."""
    done = stage.call(*tiny(stage), program=(str(ROOT / "tests" / "e2e" / "leaky.py"),))
    assert done.returncode == 70, done.stderr
    said = re.findall(
        r"^.*\*\*\* and \*\*\* and https://store\.example/key\?\*\*\*", done.stderr, re.MULTILINE
    )
    assert len(said) >= 5  # print, warning, logger, thread, the error and what it came from
    assert "leaky.py" in done.stderr  # the frames
    assert not stage.leaks()


def test_a_run_that_is_stopped_tells_no_secret(stage: Stage) -> None:
    """SIGTERM in the middle of the work."""
    command = [sys.executable, "-m", "job", *tiny(stage)]
    attempt = Attempt(command, stage.environment, stage.folder / "stderr")
    try:
        assert attempt.wait_for("stage.finished", stage="table")
        attempt.send(signal.SIGTERM)
        assert attempt.end() == 75
    finally:
        attempt.process.kill()
    (stage.folder / "stdout").write_text(json.dumps(attempt.events))
    assert not stage.leaks()


def test_the_search_would_find_them(stage: Stage) -> None:
    """In a file, in a zip's member, in an object, in a name."""
    (stage.folder / f"log-{PROXY}").write_text("")
    with zipfile.ZipFile(stage.folder / "final_model.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", HUB * 9)
    open_store(stage.uri).write("report.html", quote(WRONG_KEY, safe="").encode())
    found = " ".join(stage.leaks())
    assert all(name in found for name in ("proxy", "HF token", "wrong key"))
