"""`evaluate` and `predict` where no model is needed; tests/e2e has them whole."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from job.apply_candidate import Measurement, evaluate, predict
from job.data.images import write_image
from job.errors import InputError
from job.metrics.statistics import paired_uplift, t_interval
from job.reward.terms import METRICS


def measurement(n: int, seen: int = 0) -> Measurement:
    before, after = np.linspace(0.6, 0.7, n), np.linspace(0.65, 0.76, n)
    intervals = [{metric: t_interval(values) for metric in METRICS} for values in (before, after)]
    uplift = paired_uplift(after, before, [str(i) for i in range(n)])
    return Measurement("ppo: chooses", "data", n, seen, *intervals, uplift)


def test_the_answer_for_programs_is_strict_json() -> None:
    """One image has infinite intervals: null, which every reader understands."""
    text = json.dumps(measurement(1).to_json(), allow_nan=False)
    answer = json.loads(text)
    assert answer["uplift"]["low"] is None
    assert answer["uplift"]["sd"] is None
    assert answer["after"]["dice"]["mean"] == 0.65
    assert math.isinf(measurement(1).uplift.low)


def test_the_answer_for_people_comes_first_and_warns() -> None:
    """Dice before and after in the second line; images that shaped the candidate are not new patients."""
    lines = measurement(3, seen=2).to_text().splitlines()
    assert lines[1].startswith("Dice 0.650 -> 0.705 (+0.055, ")
    assert "2 of these images shaped the candidate" in lines[2]
    assert "WARNING" not in measurement(3).to_text()


def test_a_mask_never_replaces_an_image(tmp_path: Path) -> None:
    """Into the folder of the images, masks would overwrite the PNGs among them: refused before any work."""
    image = tmp_path / "eye.png"
    write_image(image, np.zeros((4, 4, 3), np.uint8))
    before = image.read_bytes()
    for images in (tmp_path, image):
        with pytest.raises(InputError, match=r"eye\.png") as caught:
            predict(str(tmp_path / "no-candidate"), images, tmp_path / ".", device="cpu")
        assert "another folder" in caught.value.advice
    assert image.read_bytes() == before


def test_missing_images_are_named_before_a_model_is_loaded(tmp_path: Path) -> None:
    """Each with what to do: nothing there, no folder, no mask."""
    with pytest.raises(InputError, match="does not exist"):
        predict("x", tmp_path / "nowhere", tmp_path / "out", device="cpu")
    with pytest.raises(InputError, match="is not a folder"):
        evaluate("x", str(tmp_path / "nowhere"), max_samples=None, device="cpu")
    write_image(tmp_path / "eye.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="no image has a mask"):
        evaluate("x", str(tmp_path), max_samples=None, device="cpu")
