"""Images that were left out, in both reports."""

from job.publish.training_info import BadImage
from job.report.bad_images import bad_images_sentence, bad_images_table
from job.report.html import render_html
from job.report.markdown import MOST_BAD_IMAGES, render_markdown
from tests.report.factory import make_info


def test_each_is_listed_with_what_is_wrong_and_where() -> None:
    """File, reason and data set; a file name cannot break out of the page."""
    bad = [
        BadImage(dataset="data.uri", file="images/<b>|x.png", what="cannot be decoded"),
        BadImage(dataset="evaluate.datasets B", file="masks/y.png", what="has 8 x 8 pixels"),
    ]
    info = make_info("improved")
    info = info.model_copy(update={"data": info.data.model_copy(update={"bad_images": bad})})
    page, text = render_html(info, {}), render_markdown(info)
    assert "2 images could not be used" in page
    assert "images/&lt;b&gt;|x.png" in page
    assert "<b>|x" not in page
    assert "## Images left out" in text
    assert "| images/&lt;b>\\|x.png | cannot be decoded | data.uri |" in text
    assert "| masks/y.png | has 8 x 8 pixels | evaluate.datasets B |" in text


def test_nothing_left_out_takes_no_room() -> None:
    """No heading, no sentence, no table."""
    info = make_info("improved")
    assert bad_images_sentence([]) == ""
    assert bad_images_table([]) is None
    assert "left out" not in render_markdown(info).lower()
    assert 'id="bad-images"' not in render_html(info, {})


def test_the_short_report_counts_what_it_does_not_list() -> None:
    """Thousands of files would bury the answer: the record has them all."""
    bad = [BadImage(dataset="data.uri", file=f"images/{i}.png", what="w") for i in range(MOST_BAD_IMAGES + 3)]
    info = make_info("improved")
    info = info.model_copy(update={"data": info.data.model_copy(update={"bad_images": bad})})
    text = render_markdown(info)
    assert "and 3 others: training_info.json lists all" in text
    assert f"images/{MOST_BAD_IMAGES - 1}.png" in text
    assert f"images/{MOST_BAD_IMAGES}.png" not in text
