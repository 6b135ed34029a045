"""Documents from elsewhere: plain files of a bounded size that are what they should be."""

import os
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from job.errors import IntegrityError
from job.storage.documents import open_plain, parse_as, read_bytes, require_small


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str
    number: float


def refusal(data: bytes) -> str:
    with pytest.raises(IntegrityError, match=r"^note\.json is not a note: ") as caught:
        parse_as(Note, data, "note.json", what="a note", advice="write it again")
    assert caught.value.advice == "write it again"
    return str(caught.value).removeprefix("note.json is not a note: ")


def test_a_document_is_read_as_its_model() -> None:
    """Every field, as it is written."""
    note = parse_as(Note, b'{"text": "a", "number": 0.5}', "note.json", advice="")
    assert note == Note(text="a", number=0.5)


def test_what_is_wrong_is_said_without_the_value() -> None:
    """The field is named; what stands in it may be anybody's secret."""
    assert refusal(b'{"text": "a", "number": "hunter2"}').startswith("number: ")
    assert "hunter2" not in refusal(b'{"text": "a", "number": "hunter2"}')
    assert refusal(b'{"text": "a"}') == "number: Field required"
    assert "twice" in refusal(b'{"text": "a", "text": "b", "number": 1}')
    assert "NaN" in refusal(b'{"text": "a", "number": NaN}')
    assert "Expecting" in refusal(b"{")
    assert "deeper" in refusal(b"[" * 100_000)


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    """A pipe without a writer blocks for ever; a device may have no end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(IntegrityError, match="no plain file"):
            open_plain(path)
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        open_plain(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_plain(tmp_path / "nowhere")


def test_a_document_has_a_largest_size(tmp_path: Path) -> None:
    """One byte more is refused before it is read."""
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", most_bytes=5) == b"12345"
    with pytest.raises(IntegrityError, match=r"a has 5 bytes; a document has at most 4"):
        read_bytes(tmp_path / "a", most_bytes=4)
    require_small("x", 5, most_bytes=5)
