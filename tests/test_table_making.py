"""The making of the table as a pipeline: nothing but time depends on threads, and nothing outlives it."""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock, call

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from job import masks_on_device, scoring, table_bounds, table_making, workers
from job.actions import ActionSpace, PostProcess
from job.data.dataset import Dataset, Loaded, Sample
from job.data.images import write_image, write_mask
from job.errors import Interrupted
from job.progress import SILENT, SILENT_TASK
from job.rows import Row, RowCache, write_row
from job.segmenters.protocol import Finish, Segmentation
from job.table import ActionTable
from tests.questions import Questions
from tests.segmenters.fakes import (
    FakeSegmenter,
    PipelinedSegmenter,
    SociableSegmenter,
    cache_of,
    photographs,
)

SPACE = ActionSpace(("vessels", "thin"), (PostProcess(), PostProcess(0.8, low=0.4, min_area=4)))
SIZE = (24, 20)
PATIENCE_S = 60


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Nine photographs with masks."""
    root = tmp_path_factory.mktemp("photographs")
    samples = []
    for i, image in enumerate(photographs(9, size=SIZE)):
        write_image(root / f"{i}.png", image)
        write_mask(root / f"{i}-mask.png", image[..., 1] > 150)
        samples.append(Sample(f"i{i}", f"p{i}", "train", root / f"{i}.png", root / f"{i}-mask.png", None))
    return Dataset(samples)


def build(
    dataset: Dataset,
    folder: Path,
    *,
    threads: int,
    batch_size: int = 2,
    kind: type[FakeSegmenter] = FakeSegmenter,
    progress: Questions | None = None,
    keep: bool = True,
    device: str = "cpu",
    terms: Sequence[str] = ("dice", "cldice"),
) -> tuple[ActionTable, FakeSegmenter, RowCache]:
    cache, segmenter = cache_of(folder, SPACE.prompts, keep=keep, kind=kind)
    rows = RowCache(folder)
    built = table_making.build(
        dataset, dataset.samples, SPACE, cache, terms=terms, batch_size=batch_size,
        memory_bytes=2**20, threads=threads, progress=progress or SILENT, rows=rows, device=device,
    )  # fmt: skip
    return built, segmenter, rows


class Scorers:
    """Stands before `score_image`, and may hold some images back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dataset: Dataset) -> None:
        self.places = {dataset.load(one).image.tobytes(): i for i, one in enumerate(dataset.samples)}
        self.order: list[int] = []
        self.threads: set[threading.Thread] = set()
        self.before: list[tuple[int, threading.Event]] = []
        monkeypatch.setattr(table_making, "score_image", self)

    def __call__(self, loaded: Loaded, *rest: object) -> Row:
        place = self.places[loaded.image.tobytes()]
        for late, event in self.before:
            if late == place:
                assert event.wait(PATIENCE_S)
        row = scoring.score_image(loaded, *rest)  # type: ignore[arg-type]
        self.order.append(place)
        self.threads.add(threading.current_thread())
        for _, event in self.before:
            if len(self.order) == 3:
                event.set()
        return row


@pytest.mark.parametrize("threads", [2, 3, 9])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_no_bit_depends_on_threads_nor_on_who_ends_first(
    dataset: Dataset, tmp_path: Path, threads: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, rows and files are those of one thread, though the first image is scored after three others."""
    alone, _, _ = build(dataset, tmp_path / "one", threads=1, batch_size=batch_size, kind=SociableSegmenter)
    scorers = Scorers(monkeypatch, dataset)
    scorers.before = [(0, threading.Event())]
    built, segmenter, rows = build(
        dataset, tmp_path / "more", threads=threads, batch_size=batch_size, kind=SociableSegmenter
    )
    assert built.digest() == alone.digest()
    assert scorers.order.index(0) >= 3
    assert threading.current_thread() not in scorers.threads
    assert not any(thread.is_alive() for thread in scorers.threads)
    assert [n for n, _ in segmenter.calls] == ([1] * 9 if batch_size == 1 else [4, 4, 1])
    assert (rows.computed, rows.reused) == (9, 0)
    files = files_of(tmp_path / "one")
    assert files == files_of(tmp_path / "more")
    assert len(files) == 18


def test_processes_make_the_same_table(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit and file for file: with more cores than threads can use, and work that is worth it."""
    alone, _, _ = build(dataset, tmp_path / "one", threads=1, kind=SociableSegmenter)
    monkeypatch.setattr(table_bounds, "WORTH_PROCESSES", 9 * len(SPACE) * SIZE[0] * SIZE[1])
    processes = Mock(side_effect=workers.processes)
    monkeypatch.setattr(workers, "processes", processes)
    built, _, rows = build(dataset, tmp_path / "more", threads=5, kind=SociableSegmenter)
    assert processes.mock_calls == [call(5)]
    assert built.digest() == alone.digest()
    assert (rows.computed, rows.reused) == (9, 0)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "more")
    build(dataset, tmp_path / "four", threads=4)
    monkeypatch.setattr(table_bounds, "WORTH_PROCESSES", 9 * len(SPACE) * SIZE[0] * SIZE[1] + 1)
    build(dataset, tmp_path / "less", threads=5)
    assert processes.mock_calls == [call(5)]


DEVICE = "cpu:0"
"""torch's CPU by a name that is not the one for "no accelerator"."""
ALL_TERMS = ("dice", "iou", "recall", "precision", "foreground", "cldice", "betti")


@pytest.mark.parametrize("terms", [("dice", "recall"), ALL_TERMS])
def test_masks_made_on_a_device_make_the_same_table(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terms: Sequence[str]
) -> None:
    """Bit for bit, with and without a truth; workers are left with no mask but those for skeletons."""
    some = [replace(one, mask=None) if i % 4 == 1 else one for i, one in enumerate(dataset.samples)]
    mixed = replace(dataset, samples=some)
    alone, _, _ = build(mixed, tmp_path / "one", threads=1, terms=terms)
    assert np.isnan(alone.scores["dice"][1]).all()
    processes = Mock(side_effect=workers.processes)
    monkeypatch.setattr(workers, "processes", processes)
    worth = 9 * len(SPACE) * SIZE[0] * SIZE[1] + (terms is not ALL_TERMS)
    monkeypatch.setattr(table_bounds, "WORTH_PROCESSES_BESIDE_A_DEVICE", worth)
    monkeypatch.setattr(scoring, "iter_masks", Mock(side_effect=AssertionError("a mask made on the CPU")))
    built, _, _ = build(mixed, tmp_path / "more", threads=2, terms=terms, device=DEVICE)
    assert built.digest() == alone.digest()
    assert files_of(tmp_path / "one") == files_of(tmp_path / "more")
    assert processes.mock_calls == ([call(2)] if terms is ALL_TERMS else [])


def test_a_device_makes_masks_while_the_next_images_are_segmented(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the first batch are not ready before the second one was handed to the segmenter."""
    alone, _, _ = build(dataset, tmp_path / "one", threads=1)
    third = threading.Event()
    measure = masks_on_device.measure

    class Third(PipelinedSegmenter):
        def begin(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> Finish | None:
            if [what for what, _ in self.told].count("begun") == 2:
                third.set()
            return super().begin(images, prompts)

        def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
            return FakeSegmenter.segment(self, images, prompts)

    def late(*of: object, **how: object) -> object:
        assert third.wait(PATIENCE_S)
        return measure(*of, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(masks_on_device, "measure", late)
    built, _, _ = build(dataset, tmp_path / "more", threads=2, device=DEVICE, kind=Third)
    assert built.digest() == alone.digest()


def test_who_is_asked_by_itself_has_the_device_to_itself(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No mask is made meanwhile: what fits must not depend on the moment."""
    measure, measuring = masks_on_device.measure, threading.Event()

    class Alone(FakeSegmenter):
        def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
            assert not measuring.wait(0.05)
            return super().segment(images, prompts)

    def slow(*of: object, **how: object) -> object:
        measuring.set()
        try:
            return measure(*of, **how)  # type: ignore[arg-type]
        finally:
            measuring.clear()

    monkeypatch.setattr(masks_on_device, "measure", slow)
    build(dataset, tmp_path / "more", threads=2, device=DEVICE, kind=Alone)


def test_an_image_that_is_here_again_brings_its_company(dataset: Dataset, tmp_path: Path) -> None:
    """A and X were asked for together, X's file was lost: with A X is asked for again, also a batch later."""
    a, x, b = dataset.samples[:3]
    again = replace(a, name="again", patient="again")
    tables = []
    for folder, kind in (("plain", SociableSegmenter), ("ahead", PipelinedSegmenter)):
        whole, segmenter, _ = build(
            replace(dataset, samples=[a, x]), tmp_path / folder, threads=1, kind=SociableSegmenter
        )
        lost = dataset.load(x).digest
        for path in (tmp_path / folder).rglob("*.safetensors"):
            if path.stem == lost or "rows" in path.parts:
                path.unlink()
        torn = replace(dataset, samples=[a, b, again, x])
        built, segmenter, _ = build(torn, tmp_path / folder, threads=1, kind=kind)
        assert (2, SPACE.prompts) in segmenter.calls
        np.testing.assert_array_equal(built.scores["dice"][3], whole.scores["dice"][1])
        tables.append(built.digest())
    assert tables[0] == tables[1]


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("keep", [True, False])
def test_a_batch_is_begun_while_the_one_before_is_seen_to(
    dataset: Dataset, tmp_path: Path, batch_size: int, keep: bool
) -> None:
    """The same table, also where an image comes again in the next batch, and where rows are there already."""
    twice = replace(dataset.samples[1], name="again", patient="again")
    some = replace(dataset, samples=[*dataset.samples[:2], twice, *dataset.samples[2:]])
    alone, _, _ = build(
        some, tmp_path / "one", threads=1, batch_size=batch_size, kind=SociableSegmenter, keep=keep
    )
    built, segmenter, rows = build(
        some, tmp_path / "more", threads=2, batch_size=batch_size, kind=PipelinedSegmenter, keep=keep
    )
    assert built.digest() == alone.digest()
    assert files_of(tmp_path / "one") == files_of(tmp_path / "more")
    assert isinstance(segmenter, PipelinedSegmenter)
    told = [what for what, _ in segmenter.told]
    assert ("begun", "begun") in itertools.pairwise(told)
    assert sum(n for what, n in segmenter.told if what == "finished") == 9
    assert (rows.computed, rows.reused) == (9, 1)
    fewer = [path for i, path in enumerate(sorted((tmp_path / "more/rows").rglob("*.safetensors"))) if i % 3]
    for path in fewer:
        path.unlink()
    again, _, _ = build(
        some, tmp_path / "more", threads=2, batch_size=batch_size, kind=PipelinedSegmenter, keep=keep
    )
    assert again.digest() == alone.digest()


@pytest.mark.parametrize("size", [(24, 20), (400, 333)])
@pytest.mark.parametrize("terms", [("dice",), ALL_TERMS])
def test_what_will_be_measured_is_known_in_bytes(size: tuple[int, int], terms: Sequence[str]) -> None:
    """Before it is: so much is counted against the bound of what is on its way."""
    rng = np.random.default_rng(0)
    loaded = Loaded(rng.integers(0, 255, (*size, 3), np.uint8), rng.random(size) < 0.3, None)
    logits = rng.normal(size=(len(SPACE.prompts), 12, 10)).astype(np.float16)
    for one in (loaded, replace(loaded, truth=None)):
        whole = one.truth is not None and scoring.needs_whole_masks(terms)
        asked = masks_on_device.Asked(logits, size, one.truth, whole)
        (measured,) = masks_on_device.measure_those_that_fit([asked], SPACE, DEVICE, SILENT_TASK)
        assert measured is not None
        assert asked.measured_bytes(SPACE) == measured.n_bytes


def test_what_a_device_cannot_hold_the_cpu_makes(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same table: images are tried together, then alone, then left to the CPU; other errors are told."""
    alone, _, _ = build(dataset, tmp_path / "one", threads=1)
    measure, asked = masks_on_device.measure, []

    def short_of_memory(space: object, logits: Sequence[object], *of: object, **how: object) -> object:
        asked.append(len(logits))
        if len(logits) > 1 or len(asked) % 3 == 2:
            raise torch.OutOfMemoryError("of the device")
        return measure(space, logits, *of, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(masks_on_device, "measure", short_of_memory)
    built, _, _ = build(dataset, tmp_path / "more", threads=2, device=DEVICE)
    assert asked == [2, 1, 1] * 4 + [1]
    assert built.digest() == alone.digest()
    monkeypatch.setattr(masks_on_device, "measure", Mock(side_effect=RuntimeError("a kernel failed")))
    with pytest.raises(RuntimeError, match="a kernel failed"):
        build(dataset, tmp_path / "third", threads=2, device=DEVICE)


def test_terms_that_a_row_lacks_are_measured_on_a_device_too(dataset: Dataset, tmp_path: Path) -> None:
    """And what it has stays as it is."""
    wanted, _, _ = build(dataset, tmp_path / "one", threads=1, terms=ALL_TERMS)
    build(dataset, tmp_path / "more", threads=1, terms=("dice",))
    built, segmenter, _ = build(dataset, tmp_path / "more", threads=1, terms=ALL_TERMS, device=DEVICE)
    assert built.digest() == wanted.digest()
    assert segmenter.calls == []


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_images_on_their_way_are_bounded_with_all_copies_of_their_logits() -> None:
    """In bytes: prompts may be hundreds, and processes hold an image three times."""
    assert table_bounds.held_bytes(1000, 24_000, copies=1) == 1000 * 45 + 24_000
    assert table_bounds.held_bytes(1000, 24_000, copies=3) == 3 * (5000 + 24_000) + 40_000
    gibi = 2**30
    assert table_bounds.bytes_scored(1, free=gibi) == gibi
    assert table_bounds.bytes_scored(3, free=None) == 3 * gibi
    assert table_bounds.bytes_scored(3, free=90 * gibi) == 3 * gibi
    assert table_bounds.bytes_scored(3, free=6 * gibi) == 2 * gibi


def test_large_images_are_scored_one_at_a_time_before_the_next_is_segmented(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then memory holds what one of them takes, as if there were no pipeline."""
    pixels = SIZE[0] * SIZE[1]
    held = table_bounds.held_bytes(pixels, len(SPACE.prompts) * pixels // 4 * 2, copies=1)
    monkeypatch.setattr(table_bounds, "BYTES_SCORED", 2 * held - 1)
    segmented: list[int] = []
    scored: list[int] = []

    class Watched(FakeSegmenter):
        def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
            assert len(segmented) == len(scored)
            segmented.append(len(images))
            return super().segment(images, prompts)

    def score_image(*of_image: object) -> Row:
        row = scoring.score_image(*of_image)  # type: ignore[arg-type]
        scored.append(1)
        return row

    monkeypatch.setattr(table_making, "score_image", score_image)
    build(dataset, tmp_path, threads=4, batch_size=1, kind=Watched)
    assert len(scored) == 9


@pytest.mark.parametrize(("threads", "batch_size"), [(1, 1), (2, 1), (1, 2)])
def test_small_images_wait_in_bounds_too(
    dataset: Dataset, tmp_path: Path, threads: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segmenter that is faster than the scoring is asked for two batches more than keep all at work."""
    go_on = threading.Event()
    asked: list[int] = []
    most = 2 * threads + 2 * batch_size

    class Fast(FakeSegmenter):
        def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
            asked.append(len(images))
            if sum(asked) >= most:
                go_on.set()
            return super().segment(images, prompts)

    def score_image(*of_image: object) -> Row:
        assert go_on.wait(PATIENCE_S)
        if len(scored) == 0:
            assert sum(asked) <= most + batch_size
        scored.append(1)
        return scoring.score_image(*of_image)  # type: ignore[arg-type]

    scored: list[int] = []
    monkeypatch.setattr(table_making, "score_image", score_image)
    build(dataset, tmp_path, threads=threads, batch_size=batch_size, kind=Fast)
    assert len(scored) == 9


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_an_image_that_is_there_twice_is_segmented_and_scored_once(
    dataset: Dataset, tmp_path: Path, batch_size: int
) -> None:
    """Whichever batch it comes again in, and however long its first row takes."""
    again = [replace(dataset.samples[i], name=f"again {i}") for i in (0, 4)]
    twice = Dataset([*dataset.samples[:3], again[0], *dataset.samples[3:], again[1]])
    built, segmenter, rows = build(twice, tmp_path, threads=3, batch_size=batch_size)
    assert (rows.computed, rows.reused) == (9, 2)
    assert sum(n for n, _ in segmenter.calls) == 9
    for first, second in ((0, 3), (5, 10)):
        parts = [replace(built.rows([i]), names=("one",)) for i in (first, second)]
        assert parts[0].digest() == parts[1].digest()


@pytest.mark.parametrize("threads", [1, 4])
def test_a_disk_that_is_full_ends_the_making(
    dataset: Dataset, tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows before that one are kept, the error is the disk's own, and no thread is left behind."""
    written: list[Path] = []

    def fails(path: Path, row: Row) -> None:
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(path)
        write_row(path, row)

    monkeypatch.setattr(table_making, "write_row", fails)
    before = threading.active_count()
    with pytest.raises(OSError, match="No space left"):
        build(dataset, tmp_path, threads=threads)
    assert threading.active_count() == before
    assert len(list((tmp_path / "rows").rglob("*.safetensors"))) == 4


def test_a_segmenter_that_fails_ends_the_scoring_too(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that are being scored are given up at their next look, not waited for."""
    begun = threading.Event()

    class Fails(FakeSegmenter):
        def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
            if len(self.calls) == 1:
                assert begun.wait(PATIENCE_S)
                raise RuntimeError("the accelerator is lost")
            return super().segment(images, prompts)

    def endless(*of_image: object) -> Row:
        begun.set()
        task = of_image[-2]
        while True:
            task.advance(0)  # type: ignore[attr-defined]

    monkeypatch.setattr(table_making, "score_image", endless)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="the accelerator is lost"):
        build(dataset, tmp_path, threads=2, kind=Fails)
    assert threading.active_count() == before


@pytest.mark.parametrize("stop_at", [1, 5, 20, 35])
def test_a_stop_ends_all_threads_and_the_next_attempt_goes_on(
    dataset: Dataset, tmp_path: Path, stop_at: int
) -> None:
    """What was kept is taken over; the table is that of one go."""
    whole, _, _ = build(dataset, tmp_path / "whole", threads=3, batch_size=4, kind=SociableSegmenter)
    before = threading.active_count()
    with pytest.raises(Interrupted):
        build(
            dataset, tmp_path / "torn", threads=3, batch_size=4, kind=SociableSegmenter,
            progress=Questions(stop_at),
        )  # fmt: skip
    assert threading.active_count() == before
    found, _, rows = build(dataset, tmp_path / "torn", threads=3, batch_size=4, kind=SociableSegmenter)
    assert found.digest() == whole.digest()
    assert rows.computed + rows.reused == 9


def test_images_are_read_ahead_within_bounds(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """One until its size is known, then as many as fit; in order, by other threads."""
    readers: set[threading.Thread] = set()
    begun: list[Sample] = []

    def read(sample: Sample) -> Sample:
        readers.add(threading.current_thread())
        begun.append(sample)
        return sample

    monkeypatch.setattr(table_making, "PIXELS_AHEAD", 30)
    taken = []
    for one in table_making.read_ahead(read, dataset.samples, 3, lambda sample: 10):
        taken.append(one)
        assert len(begun) <= (1 if len(taken) == 1 else len(taken) + 3)
    assert taken == list(dataset.samples)
    assert sorted(begun, key=dataset.samples.index) == taken
    assert threading.current_thread() not in readers
