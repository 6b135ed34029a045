"""Places in a store that verbs read and write, on a real server."""

import os
from pathlib import Path

import pytest
import structlog

from job.errors import Denied, InputError, Missing
from job.exchange import Inbox, find_images, outbox
from job.places import CACHE_VARIABLE
from job.progress import SILENT
from job.storage import s3_client
from job.storage.uris import open_store
from tests.fault_proxy import ACCESS_DENIED, Fault, open_proxy
from tests.s3_server import Server


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return Inbox(SILENT, structlog.get_logger())


def test_local_places_touch_no_cache(tmp_path: Path, inbox: Inbox) -> None:
    """A path and a URI are the path; nothing is made, also where it does not exist."""
    assert inbox.folder(str(tmp_path)) == inbox.bring(find_images(tmp_path.as_uri())) == tmp_path
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
        assert inbox.bring(find_images(f"{s3_prefix}/in/eye.png")).read_bytes() == b"in/eye.png"
        for folder in (inbox.bring(find_images(f"{s3_prefix}/in")), inbox.folder(f"{s3_prefix}/in/")):
            found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
            assert found == {"eye.png", "more/eye.png"}
        with pytest.raises(Missing, match="nowhere"):
            find_images(f"{s3_prefix}/nowhere")
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


def test_an_output_that_cannot_be_written_is_found_out_before_any_work(
    s3_prefix: str, s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that may be listed alone, a file in the place of a folder, a folder of somebody else's."""
    with open_proxy(s3_server, Fault(ACCESS_DENIED, "PutObject", times=None)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        s3_client.forget()
        with pytest.raises(Denied), outbox(f"{s3_prefix}/out"):
            pytest.fail("the place was opened")
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(InputError, match="file is not a folder"), outbox(str(place)):
            pytest.fail("the place was opened")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="must not be written"), outbox(str(tmp_path / "a" / "b")):
        pytest.fail("the place was opened")


def test_a_new_place_is_empty(s3_prefix: str, tmp_path: Path) -> None:
    """What is made must not lie among what is there, in a folder as in a store; an empty folder is fine."""
    (tmp_path / "here").mkdir()
    for place in (str(tmp_path / "here"), f"{s3_prefix}/there"):
        with outbox(place, new=True) as out:
            (out.folder / "a.png").write_bytes(b"a")
            out.send("annotations.json", "[]")
        with pytest.raises(InputError, match="is not empty") as caught, outbox(place, new=True):
            pytest.fail("the place was opened")
        assert (caught.value.exit_code, bool(caught.value.advice)) == (3, True)
        with outbox(place):
            pass


def test_texts_and_errors_name_the_store(s3_prefix: str, inbox: Inbox) -> None:
    """Users cannot mend a copy in a cache."""
    open_store(s3_prefix).write("eye.png", b"x")
    with structlog.testing.capture_logs():
        folder = inbox.folder(s3_prefix)
    assert inbox.as_users_know(f"{folder}/eye.png") == f"{s3_prefix}/eye.png"
    with pytest.raises(InputError, match=f"^{s3_prefix}/eye.png is bad$"), inbox.named():
        raise InputError(f"{folder}/eye.png is bad")
    inbox.close()
