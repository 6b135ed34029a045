"""Scans of JPEGs, counted before anything is decoded."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from job.data.images import read_image
from job.data.jpeg_scans import MOST_SCANS, has_too_many_scans
from job.errors import InputError
from tests.hostile.valid import scans


@pytest.fixture
def jpeg(tmp_path: Path) -> Path:
    return tmp_path / "a.jpg"


@pytest.mark.parametrize("progressive", [False, True])
def test_scans_are_counted_as_an_encoder_made_them(jpeg: Path, progressive: bool) -> None:
    """One in a baseline JPEG, ten in a usual progressive one of colours, whatever is in its pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(jpeg, progressive=progressive, quality=100)
    n = 10 if progressive else 1
    assert not has_too_many_scans(jpeg, n)
    assert has_too_many_scans(jpeg, n - 1)


def test_what_is_no_scan_does_not_count(jpeg: Path) -> None:
    """Bytes like a scan's beginning in a profile, in a preview and behind the end, where phones put films."""
    inner = io.BytesIO()
    Image.new("RGB", (8, 8)).save(inner, "JPEG", comment=b"\xff\xda" * 500)
    profile = b"\xff\xda" * 5000 + inner.getvalue()
    Image.new("RGB", (8, 8)).save(jpeg, icc_profile=profile)
    jpeg.write_bytes(jpeg.read_bytes() + b"\xff\xda\0\2" * 5000)
    assert not has_too_many_scans(jpeg, 1)


def test_too_many_are_refused_before_they_are_decoded(jpeg: Path) -> None:
    """As many as are allowed pass; one more does not."""
    jpeg.write_bytes(scans(0))
    n = next(n for n in range(20) if not has_too_many_scans(jpeg, n))
    jpeg.write_bytes(scans(MOST_SCANS - n))
    assert read_image(jpeg).shape == (64, 64, 3)
    jpeg.write_bytes(scans(MOST_SCANS - n + 1))
    with pytest.raises(InputError, match="more than 100 scans"):
        read_image(jpeg)


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_short_ends(jpeg: Path, cut: float) -> None:
    """There is nothing behind its end to be read."""
    whole = scans(500)
    jpeg.write_bytes(whole[: int(cut * len(whole))])
    assert has_too_many_scans(jpeg) is (cut > 0.1)
