"""A finished folder and its record (its use by stages: tests/stages/test_stage.py)."""

from pathlib import Path

import pytest

from job.errors import IntegrityError
from job.storage.sealed_folder import RECORD, read_sealed, seal

FACTS = {"stage": "table", "fingerprint": "f" * 32}


def test_a_sealed_folder_gives_its_record(tmp_path: Path) -> None:
    """And one without a record is not finished."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text("x")
    assert read_sealed(tmp_path, FACTS, advice="") is None
    seal(tmp_path, {**FACTS, "seconds": 1.5})
    record = read_sealed(tmp_path, FACTS, needs=["seconds"], advice="")
    assert record is not None
    assert record["seconds"] == 1.5
    assert set(record["files"]) == {"deep/file"}


def test_the_record_of_something_else_is_refused(tmp_path: Path) -> None:
    """An object under a wrong name must not become a result."""
    seal(tmp_path, {**FACTS, "fingerprint": "e" * 32})
    with pytest.raises(IntegrityError, match="something else") as caught:
        read_sealed(tmp_path, FACTS, advice="delete it")
    assert caught.value.advice == "delete it"


def test_a_record_that_lacks_what_is_needed_is_refused(tmp_path: Path) -> None:
    """It was written by another program, or by hand."""
    seal(tmp_path, FACTS)
    with pytest.raises(IntegrityError, match="outputs"):
        read_sealed(tmp_path, FACTS, needs=["outputs"], advice="")
    (tmp_path / RECORD).write_text("[]")
    with pytest.raises(IntegrityError, match="not what this program writes"):
        read_sealed(tmp_path, FACTS, advice="")
