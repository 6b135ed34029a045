"""The action table, against a naive recomputation."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from scipy.special import expit

from job import mask_judging, scoring, table_making
from job.actions import ActionSpace, PostProcess, apply
from job.data.dataset import Dataset, Sample
from job.data.features import statistics_vector
from job.data.images import write_image, write_mask
from job.errors import Interrupted
from job.mask_judging import judge_rows
from job.metrics import overlap, topology
from job.progress import SILENT, SharedTask
from job.reward.terms import score
from job.rows import RowCache
from job.table import ActionTable
from tests.questions import Questions
from tests.segmenters.fakes import (
    FakeSegmenter,
    SociableSegmenter,
    cache_of,
    photographs,
    segmentation_of,
)

SPACE = ActionSpace(
    ("vessels", "thin vessels"),
    (
        PostProcess(0.5),
        PostProcess(0.9),
        PostProcess(0.7, low=0.4, min_area=3),
        PostProcess(0.5, closing_radius=1),
    ),
)
TERMS = ("dice", "recall", "precision", "cldice")
SIZE = (12, 16)


@dataclass(frozen=True)
class World:
    """Five small photographs; the fourth has no mask, the first a field of view."""

    dataset: Dataset
    root: Path

    def build(
        self,
        *,
        memory_bytes: int = 2**30,
        batch_size: int = 2,
        threads: int = 2,
        terms: Sequence[str] = TERMS,
        rows: RowCache | None = None,
    ) -> tuple[ActionTable, FakeSegmenter]:
        cache, segmenter = cache_of(self.root / "cache", SPACE.prompts, keep=False)
        built = table_making.build(
            self.dataset, self.dataset.samples, SPACE, cache, terms=terms, batch_size=batch_size,
            memory_bytes=memory_bytes, threads=threads, progress=SILENT, rows=rows,
        )  # fmt: skip
        return built, segmenter

    def masks_KHW(self, sample: Sample) -> np.ndarray:
        image = self.dataset.load(sample).image
        logits_PHW = segmentation_of(image, SPACE.prompts).logits_PHW
        return np.stack([apply(SPACE, action, logits_PHW, SIZE) for action in range(len(SPACE))])


def probability_of(image: np.ndarray) -> np.ndarray:
    """Return the fake segmenter's probabilities `[P, H, W]`, by torch."""
    logits_PHW = torch.from_numpy(segmentation_of(image, SPACE.prompts).logits_PHW.astype(np.float64))
    resized = torch.nn.functional.interpolate(logits_PHW[None], SIZE, mode="bilinear", align_corners=False)
    return np.asarray(torch.sigmoid(resized[0]).numpy())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(1)
    samples = []
    for i, image in enumerate(photographs(5, size=SIZE)):
        paths = [root / kind / f"{i}.png" for kind in ("images", "masks", "fov")]
        write_image(paths[0], image)
        write_mask(paths[1], (image[..., 1] > 140) ^ (rng.random(SIZE) < 0.1))
        write_mask(paths[2], np.arange(SIZE[1]) < np.full(SIZE, 12))
        has_mask, has_fov = i != 3, i == 0
        samples.append(
            Sample(
                f"i{i}",
                f"p{i // 2}",
                "train" if has_mask else "unlabelled",
                paths[0],
                paths[1] if has_mask else None,
                paths[2] if has_fov else None,
            )
        )
    return World(Dataset(samples), root)


@pytest.fixture(scope="module")
def built(world: World) -> ActionTable:
    return world.build()[0]


def test_every_score_is_that_of_the_action_s_own_mask(world: World, built: ActionTable) -> None:
    """One mask at a time, by `apply` and the metrics themselves: bit for bit."""
    for i, sample in enumerate(world.dataset.samples):
        truth = world.dataset.load(sample).truth
        if truth is None:
            continue
        for k, mask_HW in enumerate(world.masks_KHW(sample)):
            counts = overlap.confusion(mask_HW[None], truth)
            naive = {
                "dice": overlap.dice(counts)[0],
                "recall": overlap.recall(counts)[0],
                "precision": overlap.precision(counts)[0],
                "cldice": topology.cldice(mask_HW[None], truth)[0],
            }
            assert {term: built.scores[term][i, k] for term in TERMS} == naive
    assert len(np.unique(built.scores["dice"][0])) > 4


def test_unlabelled_rows_are_nan_and_have_features_all_the_same(built: ActionTable) -> None:
    """Nothing was compared with a truth that is not there."""
    for term in TERMS:
        np.testing.assert_array_equal(np.isnan(built.scores[term]).all(axis=1), [0, 0, 0, 1, 0])
        np.testing.assert_array_equal(np.isnan(built.scores[term]).any(axis=1), [0, 0, 0, 1, 0])
    assert np.isfinite(built.diversity_N).all()
    assert np.isfinite(built.statistics_NS).all()
    assert all(np.isfinite(values).all() for values in built.judges.values())


def test_features_are_the_segmenter_s_embedding_and_the_image_s_statistics(
    world: World, built: ActionTable
) -> None:
    """Inside the field of view where the data set has one."""
    for i, sample in enumerate(world.dataset.samples):
        loaded = world.dataset.load(sample)
        answer = segmentation_of(loaded.image, SPACE.prompts)
        names, statistics = statistics_vector(loaded.image, loaded.fov, answer.logits_PHW)
        np.testing.assert_array_equal(built.embeddings_NE[i], answer.embedding_D)
        np.testing.assert_array_equal(built.statistics_NS[i], statistics)
        assert built.statistic_names == names
    assert built.names == ("i0", "i1", "i2", "i3", "i4")
    assert built.patients == ("p0", "p0", "p1", "p1", "p2")


def test_diversity_is_the_mean_distance_of_all_pairs(world: World, built: ActionTable) -> None:
    """1 - Dice of every two actions' masks, two empty masks being equal; zero for a single action."""
    for i, sample in enumerate(world.dataset.samples):
        distances = []
        for a, b in itertools.combinations(world.masks_KHW(sample), 2):
            total = int(a.sum()) + int(b.sum())
            distances.append(1 - 2 * int((a & b).sum()) / total if total else 0.0)
        assert built.diversity_N[i] == pytest.approx(np.mean(distances), abs=1e-6)
    empty = np.zeros((2, 2), dtype=np.uint8)
    assert scoring._mean_pairwise_distance(empty) == 0
    assert scoring._mean_pairwise_distance(np.packbits(np.eye(2, 9, dtype=np.bool_), axis=1)) == 1
    assert scoring._mean_pairwise_distance(empty[:1]) == 0


def test_confidence_is_the_mean_probability_under_the_mask_s_own_prompt(
    world: World, built: ActionTable
) -> None:
    """Against torch's interpolation and sigmoid; 0 where the mask is empty."""
    for i, sample in enumerate(world.dataset.samples):
        probability_PHW = probability_of(world.dataset.load(sample).image)
        for k, mask_HW in enumerate(world.masks_KHW(sample)):
            under = probability_PHW[SPACE.prompt_of(k)][mask_HW]
            naive = under.mean() if under.size else 0.0
            assert built.judges["confidence"][i, k] == pytest.approx(naive, abs=1e-6)
    assert len(np.unique(built.judges["confidence"][0])) > 4


def test_consensus_is_the_dice_with_what_most_actions_hold(world: World, built: ActionTable) -> None:
    """More than half of all K actions, over both prompts."""
    for i, sample in enumerate(world.dataset.samples):
        masks_KHW = world.masks_KHW(sample)
        most_HW = np.median(masks_KHW.astype(np.float64), axis=0) > 0.5
        naive = [2 * (m & most_HW).sum() / (m.sum() + most_HW.sum()) for m in masks_KHW]
        np.testing.assert_allclose(built.judges["consensus"][i], naive, atol=1e-6)
    assert len(np.unique(built.judges["consensus"][0])) > 4


def test_sure_logits_give_sure_judges() -> None:
    """Float16 logits that overflowed to infinity are probabilities of 0 and 1, and no warning."""
    logits_HW = np.array([[np.inf, -np.inf], [0.0, 65504.0]], dtype=np.float16)
    sampled_X = scoring._sampled(SPACE, logits_HW, (2, 2), 1)
    masks_KX = np.packbits(np.tile(sampled_X > 0, (len(SPACE), 1)), axis=1)
    judged = scoring._judged_free(SPACE, masks_KX, np.tile(sampled_X, (len(SPACE.prompts), 1)))
    np.testing.assert_array_equal(expit(sampled_X), [1, 0, 0.5, 1])
    assert np.isfinite(judged["confidence"]).all()


def test_large_images_are_sampled_on_a_grid(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Diversity and judges: every second pixel each way of an image up to four times the limit."""
    monkeypatch.setattr(scoring, "DIVERSITY_PIXELS", SIZE[0] * SIZE[1] // 4)
    coarse = world.build()[0]
    for i, sample in enumerate(world.dataset.samples):
        masks_KHW = world.masks_KHW(sample)[:, ::2, ::2]
        packed_KX = np.packbits(masks_KHW.reshape(len(SPACE), -1), axis=1)
        assert coarse.diversity_N[i] == scoring._mean_pairwise_distance(packed_KX)
        probability_PHW = probability_of(world.dataset.load(sample).image)[:, ::2, ::2]
        under = [probability_PHW[SPACE.prompt_of(k)][mask_HW].mean() for k, mask_HW in enumerate(masks_KHW)]
        np.testing.assert_allclose(coarse.judges["confidence"][i], under, atol=1e-6)
        most_HW = masks_KHW.sum(axis=0) > len(SPACE) / 2
        agreement = [2 * (m & most_HW).sum() / (m.sum() + most_HW.sum()) for m in masks_KHW]
        np.testing.assert_allclose(coarse.judges["consensus"][i], agreement, atol=1e-6)


@pytest.mark.parametrize("masks", [0, 1, 2, 3])
def test_the_memory_budget_changes_no_result(world: World, built: ActionTable, masks: int) -> None:
    """Even where not one mask fits: then masks are scored one by one."""
    budget = masks * 2 * SIZE[0] * SIZE[1] * table_making.BYTES_PER_MASK_PIXEL
    assert world.build(memory_bytes=budget)[0].digest() == built.digest()


def test_batches_change_calls_and_no_result(world: World, built: ActionTable) -> None:
    """The last batch is smaller; every image is asked for once."""
    for batch_size, sizes in ((1, [1] * 5), (3, [3, 2]), (10, [5])):
        other, segmenter = world.build(batch_size=batch_size)
        assert other.digest() == built.digest()
        assert segmenter.calls == [(n, SPACE.prompts) for n in sizes]


def test_a_saved_table_comes_back_as_it_was(built: ActionTable, tmp_path: Path) -> None:
    """Every array bit for bit, NaN included, and every name in order."""
    built.save(tmp_path)
    loaded = ActionTable.load(tmp_path)
    assert loaded.digest() == built.digest()
    assert (loaded.names, loaded.patients, loaded.splits) == (built.names, built.patients, built.splits)
    assert loaded.statistic_names == built.statistic_names
    assert set(loaded.scores) == set(TERMS)
    assert set(loaded.judges) == {"confidence", "consensus"}
    for term in TERMS:
        np.testing.assert_array_equal(loaded.scores[term], built.scores[term])
    assert loaded.embeddings_NE.dtype == np.float32


@pytest.mark.parametrize(
    "change",
    [
        lambda t: replace(t, names=t.names[::-1]),
        lambda t: replace(t, patients=("q", *t.patients[1:])),
        lambda t: replace(t, splits=("test", *t.splits[1:])),
        lambda t: t.with_scores(dice=np.nextafter(t.scores["dice"], 2)),
        lambda t: replace(t, embeddings_NE=t.embeddings_NE + np.float32(1)),
        lambda t: replace(t, statistics_NS=t.statistics_NS + np.float32(1)),
        lambda t: replace(t, diversity_N=t.diversity_N + 1),
        lambda t: replace(t, judges={**t.judges, "consensus": t.judges["consensus"] + 1}),
    ],
)
def test_the_digest_covers_every_part(
    built: ActionTable, change: Callable[[ActionTable], ActionTable]
) -> None:
    """Whatever a later stage could read."""
    assert change(built).digest() != built.digest()


def test_rows_are_picked_by_split_or_number_in_every_part(built: ActionTable) -> None:
    """Names, scores and features of one image stay together."""
    part = built.of("unlabelled", "train").rows([4, 0])
    assert (part.names, part.patients) == (("i4", "i0"), ("p2", "p0"))
    for whole, picked in (
        (built.scores["dice"], part.scores["dice"]),
        (built.judges["confidence"], part.judges["confidence"]),
        (built.judges["consensus"], part.judges["consensus"]),
        (built.diversity_N, part.diversity_N),
        (built.embeddings_NE, part.embeddings_NE),
        (built.statistics_NS, part.statistics_NS),
    ):
        np.testing.assert_array_equal(picked, whole[[4, 0]])
    assert built.of("unlabelled").names == ("i3",)
    more = built.with_scores(reward_net=np.zeros((5, 8)))
    assert set(more.scores) == {*TERMS, "reward_net"}
    assert "reward_net" not in built.scores


def test_remembered_rows_are_bit_for_bit_those_that_were_computed(
    world: World, built: ActionTable, tmp_path: Path
) -> None:
    """The second table asks no segmenter and has the same digest, judges, features and NaN included."""
    first, cold = RowCache(tmp_path), world.build(rows=RowCache(tmp_path / "none"))
    assert world.build(rows=first)[0].digest() == cold[0].digest() == built.digest()
    assert (first.computed, first.reused) == (5, 0)
    again = RowCache(tmp_path)
    remembered, segmenter = world.build(rows=again)
    assert remembered.digest() == built.digest()
    assert segmenter.calls == []
    assert (again.computed, again.reused) == (0, 5)


def test_a_row_serves_whoever_asks_for_fewer_terms_and_grows_for_whoever_asks_for_more(
    world: World, built: ActionTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test row of one fold is a training row of the next: no term of an image is scored twice."""
    asked: list[list[str]] = []

    def counted(masks: np.ndarray, truth: np.ndarray, terms: Sequence[str]) -> dict[str, np.ndarray]:
        asked.append(list(terms))
        return score(masks, truth, terms)

    monkeypatch.setattr(scoring, "score", counted)
    rows = RowCache(tmp_path)
    fewer = world.build(rows=rows, terms=["dice", "recall"])[0]
    assert set(fewer.scores) == {"dice", "recall"}
    assert world.build(rows=rows)[0].digest() == built.digest()
    assert asked == [["dice", "recall"]] * 4 + [["precision", "cldice"]] * 4
    only_dice, segmenter = world.build(rows=rows, terms=["dice"])
    assert only_dice.digest() == replace(built, scores={"dice": built.scores["dice"]}).digest()
    assert segmenter.calls == []
    assert (rows.computed, rows.reused) == (10, 5)


def test_only_new_or_damaged_rows_are_computed(world: World, built: ActionTable, tmp_path: Path) -> None:
    """Cut short, emptied or gone, here of whole batches: computed again, and the table is the same."""
    world.build(rows=RowCache(tmp_path))
    key_of = RowCache(None).key
    files = [
        tmp_path
        / "rows"
        / f"{key_of(loaded, SPACE, segmenter_key=FakeSegmenter.key, batch_size=2)}.safetensors"
        for loaded in map(world.dataset.load, world.dataset.samples)
    ]
    whole = [file.read_bytes() for file in files]
    files[0].write_bytes(whole[0][:-1] + bytes([whole[0][-1] ^ 1]))
    files[1].write_bytes(b"")
    files[4].unlink()
    rows = RowCache(tmp_path)
    mended, segmenter = world.build(rows=rows)
    assert mended.digest() == built.digest()
    assert sum(n for n, _ in segmenter.calls) == 3
    assert (rows.computed, rows.reused) == (3, 2)
    assert [file.read_bytes() for file in files] == whole
    assert sorted((tmp_path / "rows").rglob("*.safetensors")) == sorted(files)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("rows_left", "logits_left"), [(1, 4), (3, 4), (2, 0), (1, 2), (0, 3)])
def test_a_batch_that_a_kill_tore_apart_is_finished_with_the_same_bits(
    world: World, tmp_path: Path, rows_left: int, logits_left: int, keep: bool
) -> None:
    """Whatever came through of its rows and logits, in this folder or in the store's copy of it."""

    def build(folder: Path) -> tuple[ActionTable, list[Path], list[Path]]:
        cache, _ = cache_of(folder, SPACE.prompts, keep=keep, kind=SociableSegmenter)
        table_of = table_making.build(
            world.dataset, world.dataset.samples, SPACE, cache, terms=TERMS, batch_size=4,
            memory_bytes=2**30, threads=3, progress=SILENT, rows=RowCache(folder),
        )  # fmt: skip
        kept = [sorted((folder / of).rglob("*.safetensors")) for of in ("rows", "logits")]
        return table_of, kept[0], kept[1]

    whole = build(tmp_path / "whole")[0]
    _, rows, logits = build(tmp_path / "torn")
    assert (len(rows), len(logits)) == (5, 5 if keep else 0)
    for path in (*rows[rows_left:], *logits[logits_left:]):
        path.unlink()
    assert build(tmp_path / "torn")[0].digest() == whole.digest()


def test_a_stop_is_noticed_within_an_image(
    world: World, built: ActionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masks of a large one take minutes to score; scored a few at a time they have the same scores."""
    monkeypatch.setattr(scoring, "PIXELS_AT_ONCE", 1)
    monkeypatch.setattr(scoring, "FEWEST_AT_ONCE", 1)

    def build(progress: Questions) -> ActionTable:
        cache, _ = cache_of(world.root / "cache", SPACE.prompts, keep=False)
        return table_making.build(
            world.dataset, world.dataset.samples, SPACE, cache, terms=TERMS, batch_size=2,
            memory_bytes=2**30, threads=3, progress=progress,
        )  # fmt: skip

    questions = Questions()
    assert build(questions).digest() == built.digest()
    labelled = sum(sample.mask is not None for sample in world.dataset.samples)
    assert questions.asked >= labelled * len(SPACE)
    with pytest.raises(Interrupted):
        build(Questions(stop_at=4))


@pytest.mark.parametrize(
    ("threads", "device", "memory_bytes"),
    [(1, "cpu", 4000), (4, "cpu", 4000), (4, "cpu:0", 2**20), (4, "cpu:0", 400), (4, "cpu:0", 100)],
)
def test_judging_asks_each_image_s_own_judge_about_each_action_s_mask(
    world: World, threads: int, device: str, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labelled or not, and never with the truth in hand; scores beyond 0 and 1 are cut.

    Masks come from a device where one may hold them all at once.
    """
    made_here = Mock(side_effect=mask_judging.iter_masks)
    monkeypatch.setattr(mask_judging, "iter_masks", made_here)
    fits = len(SPACE) * SIZE[0] * SIZE[1] // 8 <= memory_bytes

    def judge_of(sample: Sample) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        number = world.dataset.samples.index(sample)

        def judge(image_HWC: np.ndarray, masks_BHW: np.ndarray) -> np.ndarray:
            np.testing.assert_array_equal(image_HWC, world.dataset.load(sample).image)
            return masks_BHW.mean(axis=(1, 2)) * (number + 0.5)

        return judge

    cache, _ = cache_of(world.root / "judged", SPACE.prompts, keep=False)
    with SILENT.task("judging masks", 5, "images") as task:
        rows = judge_rows(
            world.dataset, world.dataset.samples, SPACE, cache, judge_of,
            memory_bytes=memory_bytes, threads=threads, task=SharedTask(task), device=device,
        )  # fmt: skip
        scores_NK = np.stack(list(rows))
    for i, sample in enumerate(world.dataset.samples):
        wanted = world.masks_KHW(sample).mean(axis=(1, 2)) * (i + 0.5)
        np.testing.assert_array_equal(scores_NK[i], np.clip(wanted, 0, 1))
    assert (scores_NK == 1).any()
    assert made_here.call_count == (0 if device != "cpu" and fits else len(world.dataset.samples))


def test_batches_are_cut_by_pixels(world: World, built: ActionTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch ends with the image that fills it: memory does not grow with the batch size of large images."""
    for pixels, sizes in ((SIZE[0] * SIZE[1] * 9, [3, 2]), (2 * SIZE[0] * SIZE[1], [2, 2, 1]), (1, [1] * 5)):
        monkeypatch.setattr(table_making, "PIXELS_OF_A_BATCH", pixels)
        other, segmenter = world.build(batch_size=3)
        assert [n for n, _ in segmenter.calls] == sizes
        assert other.digest() == built.digest()
