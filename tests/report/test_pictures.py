import base64
import io

import numpy as np
import pytest
from PIL import Image

from job.report import pictures
from job.report.pictures import (
    BACKGROUND,
    EXTRA,
    HIT,
    LARGE_PX,
    MISSED,
    Panel,
    Tile,
    error_map,
    error_words,
    overlay,
    thumbnails,
)
from tests.report.factory import make_info, make_panels


def decoded(tile: Tile) -> np.ndarray:
    kind, _, data = tile.uri.partition(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def panel(height: int = 40, width: int = 60) -> Panel:
    rng = np.random.default_rng(0)
    truth_HW, before_HW, after_HW = rng.random((3, height, width)) < 0.3
    image_HWC = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Panel("eye", "p1", image_HWC, truth_HW, before_HW, after_HW)


def test_error_map_has_a_colour_for_each_outcome() -> None:
    """Every pixel is found, missed, extra or background, by the plain definition."""
    one = panel()
    colours_HWC = error_map(one.after_HW, one.truth_HW)
    for colour, wanted in ((HIT, (True, True)), (MISSED, (False, True)), (EXTRA, (True, False))):
        shown_HW = (colours_HWC == colour).all(axis=-1)
        for y, x in np.ndindex(shown_HW.shape):
            assert shown_HW[y, x] == ((bool(one.after_HW[y, x]), bool(one.truth_HW[y, x])) == wanted)


def test_error_colours_differ_in_lightness() -> None:
    """Colours that differ in lightness can be told apart in grey, too."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    colours = np.array([BACKGROUND, HIT, EXTRA, MISSED]) / 255
    lightness = (colours**2.2) @ weights + 0.05
    ratios = lightness[1:] / lightness[:-1]
    assert ratios[0] > 3, "WCAG 2.2 asks for 3 to 1 of graphics"
    assert (ratios[1:] > 1.5).all()


def test_small_pictures_are_kept_pixel_by_pixel() -> None:
    """Masks and error maps smaller than the page's pictures are neither scaled nor blurred."""
    one = panel()
    tiles = {tile.caption: tile for tile in overlay(one)}
    assert list(tiles) == ["Image", "Truth", "Before", "After", "Errors before", "Errors after"]
    np.testing.assert_array_equal(decoded(tiles["Errors after"]), error_map(one.after_HW, one.truth_HW))
    np.testing.assert_array_equal(decoded(tiles["Truth"]).mean(axis=-1) > 128, one.truth_HW)
    assert tiles["Truth"].is_enlarged


def test_large_pictures_are_downsized_with_their_aspect() -> None:
    """The longer edge fits, the aspect stays."""
    tile = overlay(panel(900, 1200))[0]
    assert (tile.width, tile.height) == (LARGE_PX, LARGE_PX * 900 // 1200)
    assert decoded(tile).shape == (tile.height, tile.width, 3)
    assert not tile.is_enlarged


def test_errors_are_told_in_words() -> None:
    """The text of an error map counts what was missed and what was extra."""
    truth_HW = np.array([[True, True, True, True, False]])
    assert error_words(np.array([[True, False, False, False, True]]), truth_HW) == (
        "75% of the true pixels missed, 50% of the marked pixels extra"
    )
    empty_HW = np.zeros_like(truth_HW)
    assert error_words(empty_HW, empty_HW) == "no true pixels, none marked"


def test_thumbnails_stop_at_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are made in the given order until their budget is spent, and none after."""
    panels = list(make_panels(make_info(n_images=6)).values())
    everything = thumbnails(panels)
    assert list(everything) == [one.name for one in panels]
    sizes = [len(t.photo.uri) + len(t.before.uri) + len(t.after.uri) for t in everything.values()]
    monkeypatch.setattr(pictures, "THUMBNAIL_BUDGET_BYTES", sum(sizes[:3]))
    assert list(thumbnails(panels)) == [one.name for one in panels[:3]]


@pytest.mark.parametrize(
    "change",
    [
        {"image_HWC": np.zeros((4, 4), np.uint8)},
        {"image_HWC": np.zeros((4, 4, 3), np.float32)},
        {"truth_HW": np.zeros((4, 5), np.bool_)},
        {"after_HW": np.zeros((4, 4), np.uint8)},
    ],
)
def test_a_panel_refuses_other_shapes_and_types(change: dict[str, np.ndarray]) -> None:
    """Pictures that do not belong together are an error where they are put together."""
    mask_HW = np.zeros((4, 4), np.bool_)
    right = {
        "image_HWC": np.zeros((4, 4, 3), np.uint8),
        "truth_HW": mask_HW,
        "before_HW": mask_HW,
        "after_HW": mask_HW,
    }
    Panel("eye", "p1", **right)
    with pytest.raises(ValueError, match="eye"):
        Panel("eye", "p1", **(right | change))
