"""k8s/models/fill.py: the folder on the volume is whole or not there, and a second Job leaves it alone."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from job.errors import InputError, Interrupted, SpecError
from job.storage.fetch import listing
from job.storage.uris import open_store
from tests.k8s.manifests import FOLDER, load, works

FILES = {"config.json": b"{}", "weights/model.safetensors": bytes(range(256)) * 5000}


def fill(uri: str, target: Path) -> subprocess.CompletedProcess[str]:
    """Run the script as its Job does."""
    command = [sys.executable, str(FOLDER / "models" / "fill.py"), str(target)]
    return subprocess.run(command, env={**os.environ, "MODEL_URI": uri}, capture_output=True, text=True)


def test_a_checkpoint_arrives_whole_and_once(s3_prefix: str, tmp_path: Path) -> None:
    """What a cut copy left behind is taken over; a change of the bucket does not touch what is there."""
    store, target = open_store(s3_prefix), tmp_path / "sa2va"
    for name, content in FILES.items():
        store.write(name, content)
    part = tmp_path / f".sa2va.{listing(s3_prefix).digest[:12]}" / "config.json"
    part.parent.mkdir()
    part.write_bytes(FILES["config.json"])

    done = fill(s3_prefix, target)
    assert done.returncode == 0, done.stderr
    assert "copying 1 of 2 files" in done.stdout
    assert {
        one.relative_to(target).as_posix(): one.read_bytes() for one in target.rglob("*") if one.is_file()
    } == FILES

    store.write("config.json", b"changed")
    again = fill(s3_prefix, target)
    assert again.returncode == 0, again.stderr
    assert "is there already" in again.stdout
    assert (target / "config.json").read_bytes() == FILES["config.json"]


def test_no_checkpoint_fails_for_good(s3_prefix: str, tmp_path: Path) -> None:
    """The exit code says that it comes again, the message which place it is; nothing appears."""
    done = fill(f"{s3_prefix}/none", tmp_path / "sa2va")
    assert done.returncode == InputError.exit_code
    assert f"{s3_prefix}/none" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_without_the_place_is_a_mistake_and_no_defect(tmp_path: Path) -> None:
    """The exit code is that of a wrong spec, and the message names the variable."""
    command = [sys.executable, str(FOLDER / "models" / "fill.py"), str(tmp_path / "sa2va")]
    environment = {name: value for name, value in os.environ.items() if name != "MODEL_URI"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == SpecError.exit_code
    assert "MODEL_URI is not set" in done.stderr


def test_a_stop_is_heard_while_the_store_is_silent(tmp_path: Path) -> None:
    """With the manifest's own command, in which signals are blocked at first."""
    (work,) = works(load("models/fill-models-job.yaml"))
    prefix = work.container["command"][:-3]
    command = [*prefix, sys.executable, str(FOLDER / "models" / "fill.py"), str(tmp_path / "sa2va")]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        environment = os.environ | {
            "MODEL_URI": "s3://bucket/checkpoint", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }  # fmt: skip
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()  # the request is on its way, and no answer comes
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=10)
            connection.close()
    assert process.returncode == Interrupted.exit_code
    assert "stopped by SIGTERM" in said
