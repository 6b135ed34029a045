"""Every exit code by its cause, and what the job says as it ends: to people, to programs, to Kubernetes."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from botocore.config import Config

from job import cli, errors, inputs, pipeline, status, stopping
from job.errors import DeadlineReached, JobError
from job.places import Places
from job.spec.loading import load
from job.stages import pull
from job.storage import s3_client
from job.storage.run_folder import RunFolder
from job.storage.uris import open_store
from tests.e2e.child import TINY
from tests.fault_proxy import Fault, FlipBit, open_proxy
from tests.s3_server import Server

SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"  # noqa: S105 - one that everybody knows
Cause = Callable[[Path, pytest.MonkeyPatch], list[str]]
"""Brings about that a run fails; returns its arguments."""


@dataclass(frozen=True)
class End:
    """How a run ended, and what it said."""

    code: int
    events: list[dict[str, Any]]
    stderr: str
    message: str

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.events if line["event"] == event]


@pytest.fixture
def end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., End]]:
    """Run the command line in this process and in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOB_TERMINATION_LOG", str(tmp_path / "termination-log"))
    for name, fresh in (("_received", []), ("_failures", []), ("_limits", stopping._Limits())):
        monkeypatch.setattr(stopping, name, fresh)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()

    def run(*arguments: str) -> End:
        code = cli.main(arguments)
        said = capsys.readouterr()
        place = tmp_path / "termination-log"
        events = [json.loads(line) for line in said.out.splitlines()]
        return End(code, events, said.err, place.read_text() if place.exists() else "")

    yield run
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def tiny(*settings: str) -> list[str]:
    sets = (f"--set={setting}" for setting in ("runtime.threads=1", *settings))
    return [TINY, "--run-id", "r", *sets]


def with_first_stage(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[str]:
    """Let the first stage fail of an error, while a local variable holds a secret."""

    def fail(context: object) -> dict[str, str]:
        secret = SECRET
        assert secret
        raise error

    monkeypatch.setattr(pipeline, "stages_of", lambda spec: (replace(pull.STAGE, run=fail),))
    return tiny()


def unknown_field(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return tiny("finetune.learningrate=1")


def no_spec(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["run"]


def bad_run_id(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return [TINY, "--run-id", "../x"]


def no_data(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return tiny("data.uri=/nowhere")


def output_in_the_way(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (place / "output").touch()
    return tiny()


def no_credentials(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    s3_client.forget()
    return tiny("data.uri=s3://bucket/data")


def store_that_is_down(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for name, value in (("ACCESS_KEY_ID", "any"), ("SECRET_ACCESS_KEY", SECRET)):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    config = s3_client._config().merge(Config(retries={"total_max_attempts": 1}))
    monkeypatch.setattr(s3_client, "_config", lambda: config)
    s3_client.forget()
    return tiny("data.uri=s3://bucket/data")


def manifest_of_another_version(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    run = place / "output" / "runs" / "tiny" / "r"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    (run / "_SUCCESS").write_text(sha256(b"{}").hexdigest())
    return tiny()


def invalid_before(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    arguments = tiny()
    spec = load(TINY, overrides=["runtime.threads=1"]).spec
    identity = inputs.find(spec, Places.of(spec)).identity(spec)
    folder = RunFolder(place / "output", "tiny", "r")
    folder.write("report.md", "# Report\n")
    folder.seal(exit_code=5, verdict="invalid", identity=identity)
    return arguments


def deadline(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return tiny("runtime.deadline_s=0.001")


def held_by_another(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    run = place / "output" / "runs" / "tiny" / "r"
    run.mkdir(parents=True)
    lock = os.open(run / ".lock", os.O_CREAT | os.O_RDWR)  # until the process ends
    fcntl.flock(lock, fcntl.LOCK_EX)
    return tiny()


def no_memory(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return with_first_stage(monkeypatch, MemoryError())


def no_cuda(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tiny("runtime.device=cuda")


def cuda_out_of_memory(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return with_first_stage(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))


def stopped(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    stopping._received.append(15)
    return tiny()


def defect(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return with_first_stage(monkeypatch, KeyError("no such key"))


def sly_library(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return with_first_stage(monkeypatch, SystemExit(0))  # type: ignore[arg-type]


def broken_pipe(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return with_first_stage(monkeypatch, BrokenPipeError(32, "Broken pipe"))


CAUSES: list[tuple[Cause, int, str, str]] = [
    (unknown_field, 2, "SpecProblems", "learningrate"),
    (no_spec, 2, "SpecError", "required: spec"),
    (bad_run_id, 2, "SpecError", "'../x'"),
    (no_data, 3, "InputError", "data.uri: /nowhere does not exist"),
    (output_in_the_way, 3, "InputError", "output"),
    (no_credentials, 3, "Denied", "there are no credentials"),
    (manifest_of_another_version, 4, "IntegrityError", "manifest.json"),
    (invalid_before, 5, "InvalidResult", "the result is invalid"),
    (deadline, 6, "DeadlineReached", "runtime.deadline_s (0.001 s), "),
    (held_by_another, 10, "TryAgain", "another process"),
    (store_that_is_down, 10, "StoreFailure", "cannot be reached"),
    (no_memory, 10, "TryAgain", "out of memory"),
    (no_cuda, 11, "DeviceError", "no CUDA device"),
    (cuda_out_of_memory, 11, "DeviceError", "out of memory"),
    (stopped, 75, "Interrupted", "stopped by SIGTERM"),
    (defect, 70, "KeyError", "a defect of the program: KeyError: 'no such key'"),
    (sly_library, 70, "SystemExit", "a defect of the program"),
    (broken_pipe, 70, "BrokenPipeError", "a defect of the program"),
]


@pytest.mark.parametrize(("cause", "code", "kind", "words"), CAUSES, ids=[row[0].__name__ for row in CAUSES])
def test_each_cause_has_its_code_and_its_words(
    cause: Cause, code: int, kind: str, words: str,
    tmp_path: Path, end: Callable[..., End], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One event, one error with cause and advice for people, one message; no success, no secret."""
    ended = end(*cause(tmp_path, monkeypatch))
    (failed,) = ended.named("job.failed")
    assert (ended.code, failed["exit_code"], failed["error"]) == (code, code, kind), ended.stderr
    assert failed["level"] == ("warning" if code == 75 else "error")
    assert words in failed["message"]
    assert failed["advice"]
    assert failed["message"] in ended.stderr
    assert ended.stderr.count("  advice: ") == 1
    assert f"  advice: {failed['advice']}" in ended.stderr
    first, advice, *_ = ended.message.splitlines()
    assert first == f"{kind} (exit code {code}): {failed['message']}"
    assert advice == f"advice: {failed['advice']}"
    assert len(ended.message.encode()) < 4096
    assert ("Traceback" in ended.stderr) == (code == 70)
    assert not [event for event in ended.named("job.finished") if event["exit_code"] == 0]
    assert SECRET not in ended.stderr + ended.message + json.dumps(ended.events)


def test_every_error_of_the_page_is_reached() -> None:
    """A new class needs a cause here; what only a store answers is looked at below."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert {kind.__name__ for kind in kinds if issubclass(kind, JobError)} - {
        kind for _, _, kind, _ in CAUSES
    } == {"JobError", "Missing"}


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (KeyError("x"), "failed", 70),
        (MemoryError(), "failed", 10),
        (DeadlineReached("late"), "deadline", 6),
        (None, "interrupted", 75),
    ],
    ids=["defect", "memory", "deadline", "signal"],
)
def test_the_run_s_own_log_and_state_tell_the_end(
    error: Exception | None, state: str, code: int,
    tmp_path: Path, end: Callable[..., End], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Who has only the run folder reads how the run ended, and where an error was met."""
    arguments = with_first_stage(monkeypatch, error or AssertionError("it should have stopped before"))
    if error is None:
        monkeypatch.setattr(pipeline, "find", lambda *_: stopping._received.append(15))
        monkeypatch.setattr(pipeline, "compute", lambda *_: stopping.raise_if_stopped())
    ended = end(*arguments)
    assert ended.code == code
    run = tmp_path / "output" / "runs" / "tiny" / "r"
    last = json.loads((run / "job.log.jsonl").read_text().splitlines()[-1])
    assert last == ended.named("job.failed")[0] == ended.events[-1]
    (shown,) = status.runs(str(tmp_path / "output"))
    assert (shown["state"], shown["exit_code"]) == (state, code)
    assert ("at" in last) == (error is not None and not isinstance(error, JobError))
    assert last.get("at", "job/stages/stage.py:").startswith("job/stages/stage.py:")


def test_a_bucket_that_is_not_there_ends_with_3(
    s3_server: Server, s3_prefix: str, end: Callable[..., End]
) -> None:
    """The store said so, which a refusal or a failure never means."""
    ended = end(*tiny("data.uri=s3://surely-no-such-bucket/x"))
    assert (ended.code, ended.named("job.failed")[0]["error"]) == (3, "Missing")


def test_what_a_store_gives_back_changed_is_no_success(
    s3_server: Server,
    s3_prefix: str,
    tmp_path: Path,
    end: Callable[..., End],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Success is claimed when every byte was read back and the marker is written: here it never is."""
    lie = Fault(FlipBit(), "GetObject", "*/attempt-1/report.md", None)
    with open_proxy(s3_server, lie) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        s3_client.forget()
        ended = end(*tiny(f"output.uri={s3_prefix}", f"cache.uri={tmp_path / 'disk'}", "finetune.seeds=1"))
        assert proxy.count("GetObject", "*/attempt-1/report.md") >= 2
    assert ended.code == 4, ended.stderr
    assert "report.md" in ended.message
    assert not ended.named("job.finished")
    assert not ended.named("run.published")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    s3_client.forget()
    store = open_store(s3_prefix)
    assert store.stat("runs/tiny/r/_SUCCESS") is None
    assert store.stat("runs/tiny/r/manifest.json") is None
    log = store.read("runs/tiny/r/attempt-1/job.log.jsonl")[0].decode().splitlines()
    assert json.loads(log[-1]) == ended.named("job.failed")[0]
