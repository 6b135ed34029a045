"""The parts of the weights' benchmarks that a wrong figure could come from."""

import io
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import label_efficiency, specialist, specialist_augmentation, weights_folds
from benchmarks.specialist import SpecialistSpec
from benchmarks.weights_phases import train_student
from benchmarks.weights_report import Arm, best_on_validation
from benchmarks.weights_runs import CHECKPOINT, RESULT, Base, Run, Setting, Sides, labelled_samples
from benchmarks.weights_work import work
from job.data.dataset import Loaded, Sample
from job.data.fundus import sample
from job.data.images import write_image, write_mask
from job.logs import Output
from job.progress import SILENT_TASK
from job.reward.terms import METRICS
from job.segmenters.promptable_unet.adapter import EMBEDDED_CHECKPOINT
from job.segmenters.promptable_unet.trainable import open_trainable
from job.spec.tuning import SftSpec
from job.storage import strict_json
from job.storage.local import write_atomic
from job.tuning.phase import PhaseData, PhaseRoom

TINY = SpecialistSpec(steps=4, patch=16, batch_size=3, base_width=4, most_width=8, validate_every=2)


def made_up(dice: float, validation: float, name: str = "an arm") -> Arm:
    """An arm of two seeds whose images `a`, `b` of one patient and `c` of another have known Dice."""
    seeds = [
        {
            "validation": validation,
            "test": {
                "chosen": {
                    image: {**dict.fromkeys(METRICS, 2.0), "dice": dice + shift + seed / 10}
                    for image, shift in (("a", 0.0), ("b", 0.2), ("c", 0.4))
                }
            },
        }
        for seed in range(2)
    ]
    return Arm.of(name, [[result] for result in seeds])


def image_of(seed: int, height: int, width: int) -> Loaded:
    """Noise, and a bright bar that is the truth."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 100, (height, width, 3), dtype=np.uint8)
    truth = np.zeros((height, width), np.bool_)
    truth[height // 3 : height // 2] = True
    image[truth] += 120
    return Loaded(image, truth, None)


def test_seeds_are_averaged_before_images_and_images_before_patients() -> None:
    """Two images of a patient count as much as one of another, and more seeds make no more images."""
    patients = {"a": "one", "b": "one", "c": "two"}
    low, high = made_up(0.1, 0.0), made_up(0.2, 0.0)
    assert low.interval("dice", patients).mean == pytest.approx((0.25 + 0.55) / 2)
    uplift = high.against(low, "dice", patients)
    assert (uplift.n_patients, uplift.n_images) == (2, 3)
    assert uplift.mean == pytest.approx(0.1)
    assert low.images("betti_error")["a"] == 4.0


def test_the_best_arm_is_told_by_validation_alone() -> None:
    """An arm that is better on test images does not win."""
    arms = [made_up(0.9, 0.5, "good on test"), made_up(0.1, 0.6, "good on validation")]
    assert best_on_validation(arms).name == "good on validation"


@pytest.mark.parametrize("n", [1, 3, 4, 6])
def test_labels_are_drawn_from_as_many_patients_as_can_be(n: int) -> None:
    """No patient comes twice before each was there once; fewer labels are a part of more."""
    samples = [Sample(f"{p}{eye}", p, None, Path(), Path()) for p in ("x", "y", "z") for eye in "LR"]
    pool = [sample.name for sample in samples]
    names = label_efficiency.drawn(samples, pool, n, seed=3)
    assert len(set(names)) == n
    assert len({name[0] for name in names}) == min(n, 3)
    assert names == label_efficiency.drawn(samples, pool, 6, seed=3)[:n]


def test_a_verdict_names_what_is_shown_and_its_price() -> None:
    """An interval that touches 0 shows nothing; a mean loss of more than 0.01 is told."""
    none = {"arm": "x", "mean": 0.0, "low": -0.1, "high": 0.1}
    figures = [{**none, "metric": metric} for metric in weights_folds.FIGURES]
    assert "no figure of connectedness is shown" in weights_folds.verdict(figures)
    figures[0] |= {"mean": -0.02}
    figures[1] |= {"low": 0.001}
    told = weights_folds.verdict(figures)
    assert "clDice is higher" in told
    assert "a loss beyond 0.01" in told


def test_tiles_meet_the_edges_and_their_weights_cancel() -> None:
    """A network that gives one number everywhere gives it in every pixel of an image of any size."""

    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [torch.full_like(x[:, :1], 1.5)]

    for height, width in ((16, 16), (37, 50), (9, 40)):
        image = image_of(0, height, width).image
        logits = specialist.predict(Constant(), TINY, image, "cpu")  # type: ignore[arg-type]
        assert logits.shape == (1, height, width)
        np.testing.assert_allclose(logits, 1.5, atol=1e-3)


def test_mirroring_takes_truths_along() -> None:
    """Where the truth is, there the bar is still bright, whatever the draws."""
    bar = torch.zeros(8, 1, 24, 24)
    bar[:, :, 2:6, 1:20] = 1
    pixels = 10 * bar.repeat(1, 3, 1, 1)
    for seed in range(5):
        x, truths = specialist_augmentation.augmented(pixels, bar, torch.Generator().manual_seed(seed))
        inside = (x.mean(1, keepdim=True) * truths).sum((1, 2, 3)) / truths.sum((1, 2, 3))
        outside = (x.mean(1, keepdim=True) * (1 - truths)).sum((1, 2, 3)) / (1 - truths).sum((1, 2, 3))
        assert (inside > outside + 5).all()
        assert torch.equal(truths.sum((1, 2, 3)), bar.sum((1, 2, 3)))


def test_a_specialist_that_was_interrupted_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Resumed at any step, training goes on as if it had never stopped."""

    class Stop(Exception):
        pass

    class Stopping:
        def __init__(self, after: int) -> None:
            self.left = after

        def advance(self, steps: int = 1, **figures: float) -> None:
            self.left -= steps
            if self.left == 0:
                raise Stop

    images = [image_of(seed, 40, 30) for seed in range(3)]

    def trained(folder: Path, after: int) -> specialist.Trained:
        return specialist.train(
            TINY, images, images[:1], ["p"], seed=1, device="cpu", folder=folder,
            task=Stopping(after) if after else SILENT_TASK,
        )  # fmt: skip

    whole = trained(tmp_path / "whole", 0)
    with pytest.raises(Stop):
        trained(tmp_path / "parts", 3)
    parts = trained(tmp_path / "parts", 0)
    assert parts.curve == whole.curve
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, parts.network.state_dict()[name]), name


def test_a_student_learns_from_what_its_teacher_is_sure_of(tmp_path: Path) -> None:
    """Without a mask of the unlabelled images, and as any phase it ends no worse than it began."""
    pictures = [sample(index, seed=21, size=48, annotation="all") for index in range(4)]
    images = [Loaded(picture.image_HWC, picture.mask_HW, None) for picture in pictures]
    unlabelled = [replace(image, truth=None) for image in images[1:3]]
    data = PhaseData("Segment the major vessels.", images[:1], unlabelled, images[3:], ["p"])
    room = PhaseRoom(seed=0, device="cpu", log=Output(stream=io.StringIO()).log, resume_folder=tmp_path)
    model = open_trainable(EMBEDDED_CHECKPOINT, "cpu")
    before = model.state()
    spec = SftSpec.model_validate(
        {"algorithm": "sft", "steps": 6, "crop": 48, "batch_size": 2, "validate_every": 3}
    )
    result = train_student(spec, 0.9, model, data, room)
    assert [row["step"] for row in result.curve] == [0, 3, 6]
    assert result.best_gold >= result.start_gold
    assert result.best_step > 0
    assert any(not torch.equal(before[name], value) for name, value in model.state().items())


def test_a_phase_starts_from_the_weights_of_its_start(tmp_path: Path) -> None:
    """The embedded ones where nothing was trained; trained ones that are gone are an error, not those."""
    names = ("a.png", "b.png")
    for name, picture in zip(
        names, (sample(i, seed=21, size=48, annotation="all") for i in range(2)), strict=True
    ):
        write_image(tmp_path / "data" / "images" / name, picture.image_HWC)
        write_mask(tmp_path / "data" / "masks" / name, picture.mask_HW)
    setting = Setting(str(tmp_path / "data"), 48, "cpu")
    images = tuple(one.name for one in labelled_samples(tmp_path / "data"))
    sides = Sides(images[:1], images[1:], images[1:])
    phase = SftSpec.model_validate({"algorithm": "sft", "steps": 1, "crop": 32, "batch_size": 1})
    base = Run("base", Base(), sides)
    first = Run("first", phase, sides, start="base")
    second = Run("second", phase, sides, start="first")
    for run in (base, first):
        result = work(run, setting, tmp_path, math.inf)
        assert result is not None
        write_atomic(tmp_path / run.name / RESULT, strict_json.dumps(result))
    assert (tmp_path / "first" / CHECKPOINT).is_dir()
    shutil.rmtree(tmp_path / "first" / CHECKPOINT)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "first" / CHECKPOINT)):
        work(second, setting, tmp_path, math.inf)
