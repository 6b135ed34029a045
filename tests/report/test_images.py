import math

import pytest

from job.report.html import render_html
from job.report.images import LEFT_OUT, by_dice, image_rows, leaves_out_pictures, overlays
from job.report.markdown import render_markdown
from tests.report.factory import make_info, make_panels


def test_rows_stand_worst_first() -> None:
    """The image that what ships does worst comes first; its change is after minus before."""
    info = make_info(n_images=9)
    rows = image_rows(info, make_panels(info, size=16))
    dice = {image.name: image.after["dice"] for image in info.results.images}
    assert [row.name for row in rows] == sorted(dice, key=lambda name: dice[name])
    for row in rows:
        assert float(row.change.sort) == pytest.approx(
            float(row.after.sort) - float(row.before.sort), abs=2e-6
        )
        assert row.pictures is not None


def test_a_missing_prediction_is_a_dash_that_sorts_last() -> None:
    """NaN becomes a dash without a value to sort by."""
    info = make_info()
    row = next(row for row in image_rows(info, {}) if row.name == "fundus_0000")
    assert (row.predicted.text, row.predicted.sort, row.pictures) == ("–", "", None)


RANKS = ["Worst", "Median", "Best"]


@pytest.mark.parametrize(
    ("n", "ranks"),
    [(0, []), (1, ["Worst"]), (2, ["Worst", "Best"]), (3, RANKS), (9, RANKS)],
)
def test_overlays_show_worst_median_and_best(n: int, ranks: list[str]) -> None:
    """Three images are shown where there are three, and no image twice."""
    info = make_info(n_images=9)
    panels = dict(list(make_panels(info, size=16).items())[:n])
    shown = overlays(info, panels)
    assert [one.rank for one in shown] == ranks
    assert len({one.row.name for one in shown}) == len(ranks)
    dice = sorted(i.after["dice"] for i in info.results.images if i.name in panels)
    if n >= 3:
        wanted = [dice[0], dice[(n - 1) // 2], dice[-1]]
        assert [float(one.row.after.sort) for one in shown] == pytest.approx(wanted, abs=1e-6)


def test_unknown_dice_comes_first() -> None:
    """An image that could not be scored is the first to look at."""
    images = make_info(n_images=3).results.images
    unknown = images[2].model_copy(update={"after": {"dice": math.nan}})
    assert by_dice([images[0], images[1], unknown])[0] is unknown


def test_a_report_without_pictures_says_why() -> None:
    """Where the spec wants none, the page has no empty column and no legend; figures of every image stay."""
    info = make_info(n_images=5)
    silent = info.model_copy(update={"spec": {**info.spec, "report": {"images": False}}})
    assert leaves_out_pictures(silent)
    page = render_html(silent, {})
    assert "`report.images` false" in page
    assert "data:image" not in page
    assert 'class="thumbs"' not in page
    assert "fundus_0003" in page
    assert LEFT_OUT in render_markdown(silent)
    for other in (info, info.model_copy(update={"spec": {"name": "of an older version"}})):
        assert not leaves_out_pictures(other)
        assert LEFT_OUT not in render_html(other, {}) + render_markdown(other)
