"""The image, run as people and clusters run it."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.image.engine import CLUSTER, ROOT, UID, Engine, mounted
from tests.s3_server import Server

pytestmark = [pytest.mark.system, pytest.mark.timeout(2400)]  # quick, twice; on two busy cores

OUTPUT = "/app/output"
QUICK = "specs/quick.json"
TINY = "specs/tiny.json"
TIMED = """
import resource, subprocess, sys
def seconds(command):
    before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    subprocess.run(command)
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before
seconds([sys.executable, "-c", "import torch"])  # its files are read from the disk once
print(seconds(sys.argv[1:]) / seconds([sys.executable, "-c", "import torch"]), file=sys.stderr)
"""
"""Tells a command's processor time as a share of what importing torch takes: some 2 seconds, anywhere."""


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def info_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "training_info.json").read_text())


def one_run(output: Path, name: str) -> Path:
    (run,) = (output / "runs" / name).iterdir()
    return run


@pytest.fixture(scope="module")
def literal(built: Engine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """`docker run --gpus all IMAGE specs/quick.json`, and the record that lies where it said that it does."""
    # Without NVIDIA's runtime docker refuses the option, which podman takes as it is.
    gpus = ("--gpus", "all") if built.name == "podman" else ()
    done = built.run(QUICK, options=gpus)
    name = built.started[-1]
    place = re.search(r"results are inside this container at (\S+);", done.stderr)
    assert place is not None, done.stderr
    copied = tmp_path_factory.mktemp("literal")
    assert built.call("cp", f"{name}:{place[1]}/training_info.json", str(copied)).code == 0
    built.call("rm", name)
    return done, info_of(copied)


def test_the_literal_command_ends_with_the_answer_and_where_it_is(
    literal: tuple[Any, dict[str, Any]],
) -> None:
    """Without a mount: exit code 0, the answer for people after the events, and how to keep the results."""
    done, info = literal
    assert done.code == 0
    assert events(done.stdout)[-1]["event"] == "job.finished"
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Verdict ")
    assert any(line.startswith("Reward-network RL ") for line in lines)
    keep = f'add -v "$PWD/output:{OUTPUT}" --user "$(id -u):$(id -g)" to keep them'
    assert lines[-1].endswith(keep)
    assert info["results"]["verdict"]["verdict"] in ("improved", "inconclusive", "no-improvement")


def test_without_a_gpu_it_says_once_that_it_computes_on_the_cpu(literal: tuple[Any, dict[str, Any]]) -> None:
    """One warning, with what to do about it; the event of the start says the device too."""
    told = events(literal[0].stdout)
    (warning,) = [one for one in told if one["event"] == "job.warning" and "Without a GPU" in one["message"]]
    assert warning["level"] == "warning"
    assert "take the one for CUDA" in warning["message"]
    (started,) = [one for one in told if one["event"] == "job.started"]
    assert started["device"] == "cpu"


def test_as_a_cluster_runs_it_a_stop_in_the_middle_changes_nothing(
    engine: Engine, literal: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    """Unknown user, read-only, no network, no rights, 4 GiB: SIGTERM, 75, the same again, equal results."""
    options = (*CLUSTER, *mounted(tmp_path / "output", OUTPUT))
    attempt, name = engine.start(QUICK, options=options)
    assert attempt.wait_for("stage.started", stage="reward"), attempt.stderr
    assert engine.call("kill", "--signal", "TERM", name).code == 0
    assert attempt.end() == 75, attempt.stderr
    (failed,) = attempt.named("job.failed")
    assert failed["message"] == "stopped by SIGTERM; progress is saved"
    again = engine.run(QUICK, options=options)
    assert again.code == 0, again.stderr
    reused = [one["stage"] for one in events(again.stdout) if one["event"] == "stage.reused"]
    assert reused[:2] == ["pull", "table"]
    assert "inside this container" not in again.stderr
    run = one_run(tmp_path / "output", "quick")
    assert (run / "_SUCCESS").is_file()
    assert info_of(run)["results_digest"] == literal[1]["results_digest"]
    assert {path.stat().st_uid for path in run.iterdir()} == {UID}
    once_more = engine.run(QUICK, options=options)
    assert (once_more.code, events(once_more.stdout)[0]["event"]) == (0, "job.already_done")


def test_told_to_stop_a_tenth_of_a_second_after_its_start_it_ends_with_75(
    engine: Engine, tmp_path: Path
) -> None:
    """Process 1 loses no signal while Python still starts, and the same command then does the whole work."""
    options = (*CLUSTER, *mounted(tmp_path / "output", OUTPUT))
    attempt, name = engine.start(TINY, options=options)
    deadline = time.monotonic() + 60
    while not engine.is_running(name):
        assert time.monotonic() < deadline
        assert attempt.process.poll() is None, attempt.stderr
    time.sleep(0.1)  # the moment is what is tried
    assert engine.call("kill", "--signal", "TERM", name).code == 0
    assert attempt.end() == 75, attempt.stderr
    assert "stopped by SIGTERM" in attempt.stderr
    assert engine.run(TINY, options=options).code == 0
    assert (one_run(tmp_path / "output", "tiny") / "_SUCCESS").is_file()


def test_signals_wait_from_before_python_on(engine: Engine) -> None:
    """What the entrypoint becomes has both signals blocked: none can come too early for its handler."""
    # In place of Python itself something that tells its mask (dash would clear it).
    told = "print([line for line in open('/proc/self/status') if line.startswith('SigBlk')][0])"
    script = (
        f'printf "#!/opt/venv/bin/python\\n%s\\n" "{told}" >/tmp/python; chmod +x /tmp/python;'
        " PATH=/tmp:$PATH exec /app/entrypoint.sh"
    )
    mask = int(engine.shell(script).split()[1], 16)
    assert mask & (1 << 14)  # SIGTERM, 15
    assert mask & (1 << 1)  # SIGINT, 2


def test_a_bad_spec_from_a_mount_ends_with_2(engine: Engine, tmp_path: Path) -> None:
    """With the place of the mistake, and nothing of it needs torch or a folder to write to."""
    options = (*CLUSTER, *mounted(tmp_path / "in", "/in", mode=0o755))
    (tmp_path / "in" / "spec.json").write_text('{"name": "x", "finetune": {"n_steps": -1}}')
    done = engine.run("/in/spec.json", options=options)
    assert done.code == 2
    assert "/in/spec.json:1:" in done.stderr


def test_a_missing_input_of_a_spec_from_standard_input_ends_with_3(engine: Engine, tmp_path: Path) -> None:
    """`-` reads the spec, alone and after a verb; the place that is missing is named."""
    options = (*CLUSTER, *mounted(tmp_path / "output", OUTPUT))
    spec = json.dumps({"name": "x", "data": {"uri": "/in/nothing"}})
    done = engine.run("-", options=options, stdin=spec)
    assert done.code == 3, done.stderr
    assert "/in/nothing" in done.stderr
    assert engine.run("run", "-", options=options, stdin=spec).code == 3
    assert engine.run("validate", "-", options=options, stdin=spec).stdout == "<stdin>: valid\n"


def test_an_output_that_cannot_be_written_is_told_at_once(engine: Engine, tmp_path: Path) -> None:
    """Who asks, whose the folder is and the words that help, before a second is spent."""
    options = (*CLUSTER, *mounted(tmp_path / "output", OUTPUT, mode=0o755))
    done = engine.run("-c", TIMED, "/app/entrypoint.sh", QUICK, options=(*options, "--entrypoint", "python"))
    assert float(done.stderr.splitlines()[-1]) < 0.5  # seconds are also those of the machine's neighbours
    done = engine.run(QUICK, options=options)
    assert done.code == 3
    folder = (tmp_path / "output").stat()
    assert f"{OUTPUT} belongs to {folder.st_uid}:{folder.st_gid}, mode 755" in done.stderr
    assert f"this process is {UID}:0" in done.stderr
    assert f'add -v "$PWD/output:{OUTPUT}" --user "$(id -u):$(id -g)" to `docker run`' in done.stderr
    bare = engine.run(QUICK, options=CLUSTER)  # a read-only root and no mount at all
    assert bare.code == 3
    assert "Read-only file system" in bare.stderr


def test_it_works_in_a_bucket(engine: Engine, s3_server: Server, s3_prefix: str, tmp_path: Path) -> None:
    """The spec comes from a store and the results go to it; the container writes to /tmp alone."""
    client = s3_server.client()
    prefix = s3_prefix.removeprefix(f"s3://{s3_server.bucket}/")
    spec = (ROOT / TINY).read_bytes()
    client.put_object(Bucket=s3_server.bucket, Key=f"{prefix}/spec.json", Body=spec)
    # The server is on this host's loopback interface.
    reaching = tuple("host" if word == "none" else word for word in CLUSTER)
    variables = [word for pair in s3_server.environment.items() for word in ("--env", "=".join(pair))]
    words = (f"{s3_prefix}/spec.json", "--set", f"output.uri={s3_prefix}/results")
    done = engine.run(*words, options=(*reaching, *variables))
    assert done.code == 0, done.stderr
    keys = client.list_objects_v2(Bucket=s3_server.bucket, Prefix=f"{prefix}/results/runs/tiny/")["Contents"]
    assert any(one["Key"].endswith("/_SUCCESS") for one in keys)
    assert "Published" in done.stderr
    assert "inside this container" not in done.stderr


def test_a_verb_and_no_words_at_all(engine: Engine) -> None:
    """`run SPEC` is SPEC; without words it says how it is used; `doctor` finds its packages."""
    assert engine.run("run", "/none.json").stderr == engine.run("/none.json").stderr != ""
    assert engine.run().stdout.startswith("usage: ")
    assert engine.run("validate", QUICK).stdout == f"{QUICK}: valid\n"
    assert "libraries as required" in engine.run("doctor").stdout
