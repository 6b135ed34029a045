"""Build the image with whatever builds images here: `python docker/image.py`, which `make image` calls.

The caller's own settings of pip (an index, a certificate, folders of wheels) hold within the build too, and
stay in no layer of the image. Needs nothing but Python; also finds the engine that the image is tested with.
"""

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
BUILDERS = ("docker", "podman", "buildah")
"""In the order of preference; buildah alone can run nothing."""
INSTALL = "apt-get install podman runc conmon netavark uidmap, or Docker Engine"
PIP_SETTINGS = (
    "index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "constraint",
    "timeout", "default-timeout", "retries",
)  # fmt: skip
"""Of pip's configuration, what says where packages come from."""
CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class NoBuilder(Exception):
    """No program that builds images, or not the one that was asked for."""


def find_builder(wanted: str | None = None, *, runs: bool = False) -> str:
    """Return docker, podman or buildah: `wanted`, else the first that works; `runs` one that runs images too.

    Raises `NoBuilder`, which says what to install.
    """
    known = BUILDERS[:2] if runs else BUILDERS
    if wanted and wanted not in known:
        raise NoBuilder(f"{wanted!r} is none of {', '.join(known)}")
    for name in [wanted] if wanted else known:
        if shutil.which(name) and (name != "docker" or _answers(["docker", "version"])):
            return name
    raise NoBuilder(f"no {wanted or ' or '.join(known)} that works here: {INSTALL}")


def environment() -> dict[str, str]:
    """Return the environment for podman and buildah: without systemd they need other settings."""
    own = (
        {}
        if Path("/run/systemd/system").is_dir()
        else {"CONTAINERS_CONF": str(ROOT / "docker/containers.conf")}
    )
    return {**own, **os.environ}


def build_command(
    builder: str,
    tag: str,
    arguments: Mapping[str, str],
    settings: Mapping[str, str],
    folder: Path,
    *,
    root: Path = ROOT,
) -> list[str]:
    """Return the command that builds the image; what it mounts besides is written to `folder`.

    `settings` are pip's, `pip_settings` of this machine.
    """
    command = [builder, "build", "--tag", tag, "--file", str(root / "Dockerfile")]
    if builder == "docker":
        local = {}
    else:
        # In Docker's own format, which keeps more of the Dockerfile; with the host's network, as some hosts
        # let containers have none. The base image that is here is taken.
        command += ["--format", "docker", "--layers", "--network", "host", "--pull=missing"]
        command += ["--isolation", "oci"] if os.geteuid() == 0 else []
        # Of an index in a folder the one above: it lists files that lie beside it.
        local = {
            str(Path(place).parent) if "index" in name else place
            for name, value in settings.items()
            if name != "cert"
            for place in local_places(value)
        }
        command += [word for place in sorted(local) for word in ("--volume", f"{place}:{place}:ro")]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    certificate = settings.get("cert")
    if certificate:
        command += ["--secret", f"id=ca,src={certificate}"]
    lines = ["[global]", "disable-pip-version-check = true", "root-user-action = ignore"]
    lines += [f"{name} = {value}" for name, value in settings.items() if name != "cert"]
    lines += ["cert = /run/secrets/ca.pem"] if certificate else []
    configuration = folder / "pip.conf"
    configuration.touch(mode=0o600)  # an index may have a password
    configuration.write_text("\n".join(lines) + "\n")
    return [*command, "--secret", f"id=pip_conf,src={configuration}", str(root)]


def pip_settings(python: str = sys.executable, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return where this machine's pip gets packages: its files and variables, and `cert`, a file."""
    # Where Python has no pip there are no settings of it either.
    told = subprocess.run(
        [python, "-m", "pip", "config", "list"], env=dict(environ), capture_output=True, text=True
    ).stdout
    found = {}
    for line in told.splitlines():
        name, _, value = line.partition("=")
        found[name] = str(ast.literal_eval(value))
    # What later ones say holds: everywhere, for `pip install`, in the environment.
    merged = {
        name: found[f"{section}.{name}"]
        for section in ("global", "install", ":env:")
        for name in (*PIP_SETTINGS, "cert")
        if f"{section}.{name}" in found
    }
    # One line a value: a file of pip's has several lines for several values.
    merged = {name: " ".join(value.split()) for name, value in merged.items()}
    named = [merged.get("cert", ""), *(environ.get(name, "") for name in CERTIFICATES)]
    certificate = next((name for name in named if name and Path(name).is_file()), None)
    merged.pop("cert", None)
    return {**merged, "cert": certificate} if certificate else merged


def local_places(value: str) -> list[str]:
    """Return the files and folders of this machine that a value of pip's names."""
    places = [unquote(urlsplit(word).path) if word.startswith("file://") else word for word in value.split()]
    return [place for place in places if place.startswith("/") and Path(place).exists()]


def labels() -> dict[str, str]:
    """Return the program's version and the commit that it is built from, `-dirty` with changes in it."""
    version = re.search(r'^__version__ = "(.+)"', (ROOT / "job/__init__.py").read_text(), re.MULTILINE)
    assert version is not None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    told = subprocess.run(command, capture_output=True, text=True) if shutil.which("git") else None
    revision = told.stdout.strip() if told and told.returncode == 0 else "unknown"
    return {"VERSION": version[1], "REVISION": revision}


def base_image() -> str:
    """Return the base image that the Dockerfile takes."""
    found = re.search(r"^ARG BASE_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def main(words: Sequence[str]) -> int:
    """Build; returns the builder's exit code."""
    parser = argparse.ArgumentParser(description="Build the job's image.")
    parser.add_argument(
        "--builder", default="", help="docker, podman or buildah; by default what is installed"
    )
    parser.add_argument("--tag", default="segmenter-rl-job")
    parser.add_argument("--build-arg", dest="arguments", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--base-only", action="store_true", help="only see to the base image")
    parser.add_argument("--print", action="store_true", help="only say the command")
    options = parser.parse_args(words)
    try:
        builder = find_builder(options.builder or None, runs=options.base_only)
    except NoBuilder as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    given = dict(word.partition("=")[::2] for word in options.arguments)
    arguments = {**labels(), **{name: value for name, value in given.items() if value}}
    if options.base_only:
        script = [
            "sh",
            str(ROOT / "docker/base_image.sh"),
            builder,
            arguments.get("BASE_IMAGE") or base_image(),
        ]
        return subprocess.run(script, env=environment()).returncode
    with tempfile.TemporaryDirectory() as folder:
        command = build_command(builder, options.tag, arguments, pip_settings(), Path(folder))
        print(json.dumps(command) if options.print else f"building {options.tag} with {builder}", flush=True)
        return 0 if options.print else subprocess.run(command, env=environment()).returncode


def _answers(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
