"""Places in a store that verbs read and write, on a real server."""

from pathlib import Path

import pytest
import structlog

from job.errors import InputError, Missing
from job.exchange import Inbox, outbox
from job.places import CACHE_VARIABLE
from job.progress import SILENT
from job.storage.uris import open_store


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return Inbox(SILENT, structlog.get_logger())


def test_local_places_touch_no_cache(tmp_path: Path, inbox: Inbox) -> None:
    """A path and a URI are the path; nothing is made, also where it does not exist."""
    assert inbox.folder(str(tmp_path)) == inbox.images(tmp_path.as_uri()) == tmp_path
    with outbox(str(tmp_path / "out")) as out:
        (tmp_path / "out").mkdir()
        (out.folder / "eye.png").write_bytes(b"mask")
        out.send("predictions.csv", "table")
    inbox.close()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["eye.png", "predictions.csv"]
    assert not (tmp_path / "cache").exists()


def test_images_of_a_store_are_one_or_a_folder(s3_prefix: str, inbox: Inbox) -> None:
    """An object stands for itself, a prefix for everything below it; nothing there is named."""
    store = open_store(s3_prefix)
    for key in ("in/eye.png", "in/more/eye.png"):
        store.write(key, key.encode())
    with structlog.testing.capture_logs():
        assert inbox.images(f"{s3_prefix}/in/eye.png").read_bytes() == b"in/eye.png"
        for folder in (inbox.images(f"{s3_prefix}/in"), inbox.folder(f"{s3_prefix}/in/")):
            found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
            assert found == {"eye.png", "more/eye.png"}
        with pytest.raises(Missing, match="nowhere"):
            inbox.images(f"{s3_prefix}/nowhere")
    inbox.close()


def test_the_table_comes_after_the_masks(s3_prefix: str) -> None:
    """Nothing is there before, and nothing stays on this machine."""
    store = open_store(s3_prefix)
    with outbox(f"{s3_prefix}/out/") as out:
        (out.folder / "left").mkdir()
        (out.folder / "left" / "eye.png").write_bytes(b"mask")
        assert list(store.entries("out/")) == []
        out.send("predictions.csv", "table")
    assert not out.folder.exists()
    assert {stat.key: store.read(stat.key)[0] for stat in store.entries("out/")} == {
        "out/left/eye.png": b"mask", "out/predictions.csv": b"table",
    }  # fmt: skip


@pytest.mark.usefixtures("s3_prefix")
def test_a_bucket_that_is_not_there_is_found_out_before_any_work() -> None:
    """Exit 3, not after hours of segmentation."""
    with pytest.raises(InputError), outbox("s3://no-such-bucket-here/out"):
        pytest.fail("the place was opened")
