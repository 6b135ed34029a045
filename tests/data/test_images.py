"""Decoding, resizing and writing of pictures."""

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from job.data.images import (
    MAX_PIXELS,
    pixel_digest,
    read_image,
    read_levels,
    read_mask,
    resize_image,
    resize_mask,
    write_image,
    write_mask,
)
from job.errors import InputError


def picture(height: int = 12, width: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm", "bmp"])
def test_lossless_formats_round_trip(tmp_path: Path, suffix: str) -> None:
    """What is written in a lossless format is read back pixel by pixel."""
    pixels = picture()
    write_image(tmp_path / f"a.{suffix}", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), pixels)


def test_jpeg_and_gif_are_read(tmp_path: Path) -> None:
    """JPEG gives nearly the pixels that were written; a GIF of few colours gives exactly them."""
    smooth = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth).max() <= 6
    few = picture() // 128 * 255
    Image.fromarray(few).quantize(8).save(tmp_path / "a.gif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif"), few)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    """A photograph stored in any of the eight orientations is read upright (EXIF 2.3, section 4.6.4)."""
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 255
    upright[16:, 32:] = 128
    # Each undoes what the tag asks the viewer to do.
    stored = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", exif=exif, quality=100)
    read = read_image(tmp_path / "a.jpg")
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).max() <= 4


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_sixteen_bits_map_linearly(tmp_path: Path, suffix: str) -> None:
    """Levels 0..65535 become 0..255, rounded, on all three channels."""
    levels = np.array([[0, 128, 129, 32768, 65278, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / f"a.{suffix}")
    expected = np.round(levels / 257).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), np.repeat(expected[..., None], 3, 2))


def test_levels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    """Floating-point and 32-bit images are refused, as nobody knows what their white is."""
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "int.tif")
    for name in ("float.tif", "int.tif"):
        with pytest.raises(InputError, match=name):
            read_image(tmp_path / name)


def test_grey_palette_and_alpha(tmp_path: Path) -> None:
    """Grey is repeated, palettes are looked up, and transparency is laid over black."""
    grey = np.array([[0, 100, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png")[0, :, 1], grey[0])
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([10, 20, 30, 200, 100, 50])
    indexed.putdata([0, 1])
    indexed.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), [[[10, 20, 30], [200, 100, 50]]])
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [255, 255, 255, 51]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    expected = [[[200, 100, 50], [0, 0, 0], [51, 51, 51]]]
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), expected)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "suffix"),
    [
        (0, 1, np.uint8, "png"),
        (0, 255, np.uint8, "gif"),
        (0, 255, np.uint8, "bmp"),
        (0, 1, np.uint16, "tif"),
        (0, 65535, np.uint16, "png"),
        (0, 1, np.float32, "tif"),
        (3, 251, np.uint8, "png"),
        (False, True, np.bool_, "png"),
        (False, True, np.bool_, "tif"),
    ],
)
def test_masks_of_any_depth_mean_the_same(
    tmp_path: Path, low: int, high: int, dtype: type, suffix: str
) -> None:
    """1-bit, 0/1, 0/255 and 16-bit masks read alike: foreground exceeds half of the highest level."""
    truth = np.random.default_rng(1).random((9, 14)) < 0.3
    Image.fromarray(np.where(truth, high, low).astype(dtype)).save(tmp_path / f"m.{suffix}")
    np.testing.assert_array_equal(read_mask(tmp_path / f"m.{suffix}"), truth)


def test_colour_palette_mask(tmp_path: Path) -> None:
    """A palette GIF counts by its colours, not by its indices: black at index 1 is background."""
    mask = Image.new("P", (3, 1))
    mask.putpalette([0, 0, 250, 0, 0, 0, 0, 40, 0])
    mask.putdata([0, 1, 2])
    mask.save(tmp_path / "m.gif")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.gif"), [[True, False, False]])


def test_empty_mask_is_empty(tmp_path: Path) -> None:
    """A file of zeros has no foreground."""
    Image.new("L", (5, 4)).save(tmp_path / "m.png")
    assert not read_mask(tmp_path / "m.png").any()
    assert read_levels(tmp_path / "m.png").shape == (4, 5)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.gif", "a.ppm", "a.bmp"])
def test_truncated_files_are_named(tmp_path: Path, name: str) -> None:
    """A file cut short ends with an `InputError` that names it, whatever its format."""
    Image.fromarray(picture(64, 64)).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=name):
            read(tmp_path / name)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    """Text, an empty file, a folder, nothing, and formats that are not allowed are `InputError`s."""
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    Image.fromarray(picture()).save(tmp_path / "vector.png", format="PDF")
    Image.fromarray(picture()).save(tmp_path / "web.png", format="WEBP")
    for name in ("text.png", "empty.png", "folder.png", "vector.png", "web.png", "missing.png"):
        with pytest.raises(InputError, match=name):
            read_image(tmp_path / name)


@pytest.mark.parametrize("side", [9_000, 20_000])
def test_bombs_are_refused_before_decoding(tmp_path: Path, side: int) -> None:
    """A small file that claims more pixels than the cap is refused from its header."""
    assert side**2 > MAX_PIXELS

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    with pytest.raises(InputError, match=r"bomb\.png: the picture is too large") as caught:
        read_image(tmp_path / "bomb.png")
    assert "80,000,000" in caught.value.advice


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"P6 ", b"II*\0"])
)
def test_hostile_bytes_never_escape_as_other_errors(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, magic: bytes
) -> None:
    """Random bytes behind a true magic number give a picture or an `InputError`, nothing else."""
    path = tmp_path_factory.mktemp("bytes") / "a.png"
    path.write_bytes(magic + data)
    try:
        pixels = read_image(path)
    except InputError as error:
        message = str(error)
    else:
        assert (pixels.dtype, pixels.shape[2:]) == (np.uint8, (3,))
        return
    assert message.startswith(str(path))


def test_shrinking_is_an_area_average() -> None:
    """Shrinking by a whole factor gives the mean of each block, rounded once a direction."""
    pixels = picture(8, 12)
    blocks = pixels.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    assert np.abs(resize_image(pixels, 6) - blocks).max() <= 1


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_mask_pixels_need_half_of_the_area(factor: int, seed: int) -> None:
    """A shrunk mask is foreground exactly where at least half of the block was."""
    mask = np.random.default_rng(seed).random((4 * factor, 6 * factor)) < 0.5
    share = mask.reshape(4, factor, 6, factor).sum(axis=(1, 3))
    np.testing.assert_array_equal(resize_mask(mask, 6), 2 * share >= factor**2)


def test_resizing_keeps_the_aspect() -> None:
    """Height follows width; None and the own width change nothing, not even the array."""
    pixels, mask = picture(960, 999), np.ones((960, 999), bool)
    assert resize_image(pixels, 512).shape == (492, 512, 3)
    assert resize_mask(mask, 512).shape == (492, 512)
    assert resize_mask(mask, 512).all()
    assert resize_image(pixels[:10, :20], 40).shape == (20, 40, 3)
    assert resize_mask(mask[:10, :20], 40).shape == (20, 40)
    assert resize_image(pixels, None) is pixels
    assert resize_image(pixels, 999) is pixels
    assert resize_mask(mask, 999) is mask


def test_pixel_digest_sees_pixels_and_shape_alone() -> None:
    """Equal pixels in other memory layouts agree; another shape or pixel differs."""
    pixels = picture()
    assert pixel_digest(pixels) == pixel_digest(np.asfortranarray(pixels))
    assert pixel_digest(pixels) != pixel_digest(pixels.reshape(20, 12, 3))
    changed = pixels.copy()
    changed[3, 4, 1] ^= 1
    assert pixel_digest(pixels) != pixel_digest(changed)
    assert len(pixel_digest(pixels)) == len(hashlib.sha256().hexdigest())


def test_masks_are_written_with_one_bit(tmp_path: Path) -> None:
    """`write_mask` makes a 1-bit PNG that `read_mask` reads back."""
    truth = np.random.default_rng(2).random((9, 13)) < 0.5
    write_mask(tmp_path / "new" / "m.png", truth)
    np.testing.assert_array_equal(read_mask(tmp_path / "new" / "m.png"), truth)
    with Image.open(tmp_path / "new" / "m.png") as image:
        assert (image.mode, image.format) == ("1", "PNG")


def test_camera_jpegs_with_a_preview_are_read(tmp_path: Path) -> None:
    """A JPEG with a second picture inside (MPO) is read as its first picture."""
    first, preview = Image.new("RGB", (32, 16), (200, 100, 50)), Image.new("RGB", (8, 4))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    pixels = read_image(tmp_path / "a.jpg")
    assert pixels.shape == (16, 32, 3)
    assert np.abs(pixels.astype(int) - [200, 100, 50]).max() <= 3
