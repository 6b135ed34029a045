"""What is in the image, and what is not."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from job import __version__
from tests.image.engine import ROOT, UID, Engine, build

pytestmark = [pytest.mark.system, pytest.mark.timeout(2400)]  # the first test of this folder builds the image

MAX_BYTES = 1_500_000_000
"""Of the CPU image: 1.16 GB of packages, and a base of at most 250 MB."""


def packages_of(engine: Engine) -> dict[str, str]:
    """Return the versions of the packages that Python finds in the image."""
    code = (
        "import importlib.metadata as m, json;"
        " print(json.dumps({d.name: d.version for d in m.distributions()}))"
    )
    return json.loads(engine.shell(f"python -c '{code}'"))


def test_it_holds_what_the_program_needs_and_no_tool_that_made_it(engine: Engine) -> None:
    """No compiler, no pip in its environment, no cache, no tests of packages, no tools of developers."""
    packages = {name.lower().replace("_", "-"): version for name, version in packages_of(engine).items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name = re.compile(r"[\w.-]+")
    needed = {match[0].lower() for line in project["dependencies"] if (match := name.match(line))}
    extra = {
        match[0].lower()
        for group in project["optional-dependencies"].values()
        for line in group
        if (match := name.match(line))
    }
    assert needed <= {*packages}
    assert not {*packages} & {*extra, "pip", "tensorboard-data-server"}
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "docker/constraints.txt").read_text().splitlines()
        if "==" in line
    )
    differing = {
        name: version
        for name, version in packages.items()
        if name in pinned and version.partition("+")[0] != pinned[name]
    }
    assert differing == {}
    found = engine.shell(
        "for tool in gcc cc g++ make git; do command -v $tool; done;"
        " find / -xdev \\( -path '*/.cache/pip' -o -path '*/site-packages/*/tests/__init__.py'"
        " -o -path '*/torch/include' -o -path '*/site-packages/*.a' \\) -print 2>/dev/null | head; true"
    )
    assert found == ""


def test_only_what_may_be_written_can_be(engine: Engine) -> None:
    """What was added is root's and not set-uid; the program runs as a user who owns nothing."""
    user = engine.call("image", "inspect", "--format", "{{.Config.User}}", engine.image).stdout.strip()
    assert user == "10001:10001"
    odd = engine.shell(
        "find /app /opt ! -user root -o -perm /6000 -o -perm -0002 ! -type l ! -path /app/output | head"
    )
    assert odd == ""
    assert engine.shell("stat -c %a /app/output") == "1777\n"


def test_its_labels_say_what_it_is(engine: Engine) -> None:
    """Title, version, licence and commit, by the names that registries read."""
    told = engine.call("image", "inspect", "--format", "{{json .Config.Labels}}", engine.image).stdout
    labels = json.loads(told)
    kind = "org.opencontainers.image."
    assert labels[f"{kind}version"] == __version__
    assert labels[f"{kind}licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels[f"{kind}revision"])


def test_it_is_small(engine: Engine) -> None:
    """Its size is looked at, so that a package that comes in by accident is seen."""
    size = int(engine.call("image", "inspect", "--format", "{{.Size}}", engine.image).stdout)
    assert size < MAX_BYTES


def test_every_cache_is_a_folder_that_any_user_can_make(engine: Engine) -> None:
    """HOME and the caches of libraries lie below /tmp, and a user without a name has one all the same."""
    script = (
        "set -eu; for place in HOME XDG_CACHE_HOME HF_HOME TORCH_HOME TORCHINDUCTOR_CACHE_DIR"
        ' TRITON_CACHE_DIR MPLCONFIGDIR; do folder=$(printenv $place); mkdir -p "$folder";'
        ' touch "$folder/x"; case $folder in /tmp*) ;; *) exit 1 ;; esac; done;'
        ' python -c "import getpass; print(getpass.getuser())"'
    )
    options = ("--user", f"{UID}:0", "--read-only", "--tmpfs", "/tmp:mode=1777", "--entrypoint", "sh")  # noqa: S108
    done = engine.run("-c", script, options=options)
    assert (done.code, done.stdout) == (0, "job\n"), done.stderr


def test_a_change_of_the_code_installs_nothing_again(engine: Engine) -> None:
    """Built again, every package comes from the layer that is there."""
    tag = engine.image.removeprefix("localhost/")
    said = build(tag, engine.name)
    assert re.search(r"using cache|CACHED", said, re.IGNORECASE)
    assert "Collecting" not in said


def test_its_sbom_names_every_package_with_its_licence(engine: Engine, tmp_path: Path) -> None:
    """CycloneDX, valid by the tool's own check: what Python finds in the image, and under which licence."""
    command = [sys.executable, str(ROOT / "docker/sbom.py"), "--engine", engine.name, "--image", engine.image]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "sbom.json")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "sbom.json").read_text())
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    assert {(one["name"].lower(), one["version"]) for one in told["components"]} == {
        (name.lower(), version) for name, version in packages_of(engine).items()
    }
    assert [one["name"] for one in told["components"] if not one.get("licenses")] == []


def test_hadolint_has_nothing_to_say() -> None:
    """The Dockerfile follows the rules that hadolint knows."""
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or "hadolint"
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
