"""An engine that runs images, and runs of the image with it."""

import importlib.util
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from tests.e2e.attempts import Attempt

ROOT = Path(__file__).parent.parent.parent
UID = 54321
"""A user that nobody knows."""
CLUSTER = (
    "--network", "none", "--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "ALL",  # noqa: S108
    "--security-opt", "no-new-privileges", "--memory", "4g", "--user", f"{UID}:0",
)  # fmt: skip
"""As a cluster with restricted Pod security runs it."""


def building() -> ModuleType:
    """Import docker/image.py: a script, outside every package."""
    spec = importlib.util.spec_from_file_location("docker_image", ROOT / "docker" / "image.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Done:
    """A container that ended."""

    code: int
    stdout: str
    stderr: str


@dataclass
class Engine:
    """docker or podman, with an image; `folder` is for notes of the containers that it starts."""

    name: str
    image: str
    environment: Mapping[str, str]
    folder: Path
    started: list[str] = field(default_factory=list)

    def run(self, *words: str, options: tuple[str, ...] = (), stdin: str | None = None) -> Done:
        """Run the image to its end with the words of a command line."""
        command = self._command(words, options, self._new_name())
        return self._call(command, stdin=stdin)

    def start(self, *words: str, options: tuple[str, ...] = ()) -> tuple[Attempt, str]:
        """Start the image; returns the attempt, whose events can be waited for, and the container's name."""
        name = self._new_name()
        errors = self.folder / f"{name}.stderr"
        return Attempt(self._command(words, options, name), self.environment, errors), name

    def shell(self, script: str) -> str:
        """Return what a script says that runs within the image in place of the program."""
        done = self.run("-c", script, options=("--entrypoint", "sh", "--network", "none"))
        assert done.code == 0, done.stderr
        return done.stdout

    def call(self, *words: str) -> Done:
        """Run a command of the engine's own."""
        return self._call([self.name, *words])

    def is_running(self, name: str) -> bool:
        """Return whether a container has started and not ended yet."""
        return self.call("inspect", "--format", "{{.State.Running}}", name).stdout.strip() == "true"

    def stop_all(self) -> None:
        """Remove every container that was started, whatever it is doing."""
        for name in self.started:
            self.call("rm", "--force", name)

    def _new_name(self) -> str:
        self.started.append(f"job-test-{uuid.uuid4().hex[:12]}")
        return self.started[-1]

    def _command(self, words: tuple[str, ...], options: tuple[str, ...], name: str) -> list[str]:
        # As Docker does it: read-only is read-only, without folders in memory that podman adds.
        own = ("--read-only-tmpfs=false",) if self.name == "podman" and "--read-only" in options else ()
        return [self.name, "run", "--interactive", "--name", name, *own, *options, self.image, *words]

    def _call(self, command: list[str], stdin: str | None = None) -> Done:
        source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        done = subprocess.run(
            command, env=dict(self.environment), capture_output=True, text=True, timeout=900, **source
        )
        return Done(done.returncode, done.stdout, done.stderr)


def mounted(folder: Path, where: str, mode: int = 0o777) -> tuple[str, ...]:
    """Return the options that mount a new folder, by default one that everybody may write to."""
    folder.mkdir()
    folder.chmod(mode)
    return ("--volume", f"{folder}:{where}")


def build(tag: str, builder: str) -> str:
    """Build the CPU image with the real Dockerfile; returns what the builder said."""
    command = [sys.executable, str(ROOT / "docker" / "image.py"), "--builder", builder, "--tag", tag]
    done = subprocess.run(
        [*command, "--build-arg", "TORCH_VARIANT=cpu"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
