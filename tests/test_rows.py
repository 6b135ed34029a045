"""Rows on disk: what names them, what comes back, what is forgotten."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from job import rows
from job.actions import ActionSpace, PostProcess
from job.data.dataset import Loaded
from job.rows import Row, RowCache
from job.storage.mirror import NoMirror

SPACE = ActionSpace(("vessels", "thin vessels"), (PostProcess(0.5), PostProcess(0.7, low=0.4)))
LOADED = Loaded(
    np.arange(36, dtype=np.uint8).reshape(3, 4, 3), np.eye(3, 4, dtype=np.bool_), np.ones((3, 4), np.bool_)
)
ROW = Row(
    scores={"dice": np.array([0.1, 1 / 3, np.nan, 1.0]), "recall": np.array([0.2, 0.4, 0.6, np.pi])},
    judges={"confidence": np.array([0.5, 0.6, 0.7, 0.8]), "consensus": np.array([0.9, 0.8, 0.7, 0.6])},
    diversity=0.1 + 0.2,
    embedding_E=np.array([1e-30, -2.5, 3.0], np.float32),
    statistics_S=np.array([0.1, 0.2], np.float32),
    statistic_names=("contrast", "noise"),
)


def key_of(
    loaded: Loaded = LOADED, space: ActionSpace = SPACE, segmenter_key: str = "model", batch_size: int = 1
) -> str:
    return RowCache(None).key(loaded, space, segmenter_key=segmenter_key, batch_size=batch_size)


def test_a_row_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Every value, dtype and name, under its own key alone."""
    RowCache(tmp_path).write("model/k", ROW)
    row = RowCache(tmp_path).read("model/k")
    assert row is not None
    for part in ("scores", "judges"):
        found, wanted = getattr(row, part), getattr(ROW, part)
        assert set(found) == set(wanted)
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name], strict=True)
    np.testing.assert_array_equal(row.embedding_E, ROW.embedding_E, strict=True)
    np.testing.assert_array_equal(row.statistics_S, ROW.statistics_S, strict=True)
    assert (row.diversity, row.statistic_names) == (ROW.diversity, ROW.statistic_names)
    assert RowCache(tmp_path).read("model/another") is None
    assert [file.name for file in (tmp_path / "rows" / "model").iterdir()] == ["k.safetensors"]


def test_rows_come_from_the_mirror_before_they_are_looked_for(tmp_path: Path) -> None:
    """Those of the segmenter in question, under the name that their keys begin with."""
    asked: list[str] = []

    class Fetching(NoMirror):
        def restore_cache(self, group: str) -> None:
            asked.append(group)
            RowCache(tmp_path).write(key, ROW)

    key = key_of(segmenter_key="5" * 64)
    row = RowCache(tmp_path, Fetching()).read(key)
    assert row is not None
    np.testing.assert_array_equal(row.scores["recall"], ROW.scores["recall"])
    assert asked == ["rows/" + "5" * 32]
    RowCache(None, Fetching()).read(key)
    assert len(asked) == 1


def test_without_a_root_nothing_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even in the folder that the program was started in."""
    monkeypatch.chdir(tmp_path)
    forgetful = RowCache(None)
    forgetful.write("model/k", ROW)
    assert forgetful.read("model/k") is None
    assert not list(tmp_path.iterdir())


def test_further_terms_are_added_and_known_ones_stay() -> None:
    """What was remembered is what earlier tables were built from."""
    assert ROW.lacks(["cldice", "dice", "iou"]) == ["cldice", "iou"]
    more = ROW.with_scores({"iou": np.zeros(4), "recall": np.zeros(4)})
    assert more.lacks(["dice", "recall", "iou"]) == []
    np.testing.assert_array_equal(more.scores["iou"], np.zeros(4))
    np.testing.assert_array_equal(more.scores["recall"], ROW.scores["recall"])
    assert set(ROW.scores) == {"dice", "recall"}


@pytest.mark.parametrize(
    "changed",
    [
        lambda: key_of(replace(LOADED, image=LOADED.image + 1)),
        lambda: key_of(replace(LOADED, image=LOADED.image.reshape(4, 3, 3))),
        lambda: key_of(replace(LOADED, truth=~LOADED.truth)),
        lambda: key_of(replace(LOADED, truth=None)),
        lambda: key_of(replace(LOADED, truth=LOADED.fov, fov=LOADED.truth)),
        lambda: key_of(replace(LOADED, fov=None)),
        lambda: key_of(space=replace(SPACE, prompts=SPACE.prompts[::-1])),
        lambda: key_of(space=replace(SPACE, postprocess=SPACE.postprocess[::-1])),
        lambda: key_of(space=replace(SPACE, postprocess=(PostProcess(0.5), PostProcess(0.7, low=0.41)))),
        lambda: key_of(segmenter_key="another model"),
        lambda: key_of(batch_size=2),
    ],
)
def test_the_key_covers_all_that_shapes_a_row(changed: Callable[[], str]) -> None:
    """Pixels of image, truth and field of view; actions; segmenter; batch."""
    assert changed() != key_of()


def test_the_key_covers_code_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of another release are not taken over."""
    before = key_of()
    assert key_of() == before
    monkeypatch.setattr(rows, "REVISION", rows.REVISION + 1)
    revised = key_of()
    monkeypatch.setattr("job.rows.metadata.version", lambda name: f"{name} of tomorrow")
    assert len({before, revised, key_of()}) == 3
