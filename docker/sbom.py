"""Write what Python packages an image holds, with versions and licences, as CycloneDX 1.6: `make sbom`."""

import argparse
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from image import NoBuilder, environment, find_builder

METADATA = "cd /opt/venv/lib/python3.*/site-packages && tar -c --exclude=__pycache__ *.dist-info"


def main(words: Sequence[str]) -> int:
    """Write the document; returns 1 where there is no engine or no such image."""
    parser = argparse.ArgumentParser(description="Write the SBOM of an image.")
    parser.add_argument("--engine", default="", help="docker or podman; by default what is installed")
    parser.add_argument("--image", default="segmenter-rl-job")
    parser.add_argument("--output", default="sbom.json")
    options = parser.parse_args(words)
    try:
        engine = find_builder(options.engine or None, runs=True)
    except NoBuilder as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        # cyclonedx-py reads an environment: one with the metadata of the image's packages, and nothing else.
        place = Path(name) / "venv"
        venv.create(place, with_pip=False)
        (site,) = place.glob("lib/python3.*/site-packages")
        shell = [
            engine,
            "run",
            "--rm",
            "--network",
            "none",
            "--entrypoint",
            "sh",
            options.image,
            "-c",
            METADATA,
        ]
        with subprocess.Popen(shell, env=environment(), stdout=subprocess.PIPE) as sent:
            unpacked = subprocess.run(["tar", "-x", "-C", str(site)], stdin=sent.stdout)
        if sent.returncode or unpacked.returncode:
            print(f"error: {options.image} cannot be read; `make image` builds it", file=sys.stderr)
            return 1
        tool = Path(sys.executable).with_name("cyclonedx-py")
        command = [str(tool), "environment", "--output-reproducible", "--sv", "1.6"]
        command += ["--gather-license-texts"]  # some packages name their licence in their own words alone
        command += [
            "--pyproject",
            "pyproject.toml",
            "--output-file",
            options.output,
            str(place / "bin/python"),
        ]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
