"""What is said in the image alone."""

import os
from pathlib import Path

import pytest

from job import container
from job.errors import storage_error

MOUNTS = """\
21 1 0:19 / / rw,relatime - overlay overlay rw,lowerdir=/x
22 21 0:20 / /proc rw - proc proc rw
23 21 254:0 /home/me/output /app/output rw,relatime shared:1 - ext4 /dev/vda rw
24 21 254:0 /home/me/my\\040results /my\\040results rw - ext4 /dev/vda rw
25 21 0:30 / /tmp rw - tmpfs tmpfs rw
"""


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the image."""
    monkeypatch.setenv(container.VARIABLE, "0.1.0")


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/app/output/runs/quick/1", False),
        ("/app/output", False),
        ("/app/outputs/runs", True),
        ("/app/elsewhere", True),
        ("/my results/runs", False),
        ("/tmp/output", True),  # noqa: S108 - memory
    ],
)
def test_what_lies_below_a_mount_outlives_the_container(path: str, inside: bool, tmp_path: Path) -> None:
    """The nearest mount above a path decides: the root and folders in memory go with the container."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert container.is_inside(Path(path), mounts) is inside


def test_results_that_would_be_lost_are_told_with_the_words_that_keep_them(
    image: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The note names the run and the output folder to mount; a mounted folder needs none."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(container, "MOUNTS", mounts)
    assert container.results_note(Path("/results/runs/quick/1"), Path("/results")) == (
        "results are inside this container at /results/runs/quick/1;"
        ' add -v "$PWD/output:/results" --user "$(id -u):$(id -g)" to keep them'
    )
    assert container.results_note(Path("/app/output/runs/quick/1"), Path("/app/output")) is None
    monkeypatch.delenv(container.VARIABLE)
    assert container.results_note(Path("/results/runs/quick/1"), Path("/results")) is None


def test_a_folder_that_cannot_be_written_is_told_with_its_owner_and_who_asks(
    image: None, tmp_path: Path
) -> None:
    """The nearest folder that there is says why, and in the image the words for `docker run` come first."""
    tmp_path.chmod(0o750)
    refusal = PermissionError(13, "Permission denied", str(tmp_path / "runs" / "quick"))
    told = storage_error(refusal)
    assert told is not None
    me = f"{os.geteuid()}:{os.getegid()}"
    assert f"{tmp_path} belongs to {me}, mode 750; this process is {me}" in str(told)
    assert told.advice.startswith(
        f'add -v "$PWD/output:{tmp_path}/runs" --user "$(id -u):$(id -g)" to `docker run`'
    )


@pytest.mark.parametrize(
    ("place", "advice"),
    [
        ("/results/runs/quick", 'add -v "$PWD/output:/results" --user'),
        ("/app/output/runs/quick", 'add -v "$PWD/output:/app/output" --user'),
        ("/my results", 'add -v "$PWD/output:/my results" --user'),
    ],
)
def test_the_advice_for_docker_run_can_be_followed(
    image: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, advice: str
) -> None:
    """The folder that was asked for is to be mounted, never one that holds the program."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(container, "MOUNTS", mounts)
    monkeypatch.setattr(
        container.os.path, "exists", lambda path: str(path) in ("/", "/app/output", "/my results")
    )
    told = storage_error(PermissionError(13, "Permission denied", place))
    assert told is not None
    assert told.advice.startswith(advice)
    assert "make it first" in told.advice


def test_below_the_default_output_that_is_the_folder_to_mount(
    image: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever below it was missing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    told = storage_error(PermissionError(13, "Permission denied", str(tmp_path / "output" / "cache")))
    assert told is not None
    assert told.advice.startswith(f'add -v "$PWD/output:{tmp_path}/output" --user')


def test_a_folder_that_may_not_be_entered_is_told_like_any_other(
    image: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What cannot be seen counts as missing: asking about it raises nothing."""
    closed = tmp_path / "closed"
    closed.mkdir()
    real_stat = os.stat

    def stat(path: object, *args: object, **named: object) -> os.stat_result:
        if str(path).startswith(f"{closed}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_stat(path, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(PermissionError):
        (closed / "sub").stat()
    told = storage_error(PermissionError(13, "Permission denied", str(closed / "sub" / "file")))
    assert told is not None
    assert told.exit_code == 3
    assert str(closed) in str(told)


def test_outside_the_image_nothing_is_said_of_docker(tmp_path: Path) -> None:
    """A refusal's advice is about the folder alone."""
    told = storage_error(PermissionError(13, "Permission denied", str(tmp_path)))
    assert told is not None
    assert "docker" not in told.advice
