"""The report in a real browser, at the sizes of a laptop and of a phone."""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import pytest

from job.evaluation.results import VerdictName
from job.report.html import render_html
from tests.report.factory import make_info, make_panels
from tests.report.promotions import promoting
from tests.system.browser import Page, open_browser

pytestmark = pytest.mark.system

LAPTOP = {"width": 1366, "height": 768}
PHONE = {"width": 390, "height": 844, "mobile": True}
LONG_NAME = "a_very_long_file_name_without_any_space_" * 3


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One browser for all tests of this module."""
    with open_browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def written(
    folder: Path,
    verdict: VerdictName = "improved",
    names: list[str] | None = None,
    dropped_by: Sequence[str] = (),
) -> Path:
    info = promoting(make_info(verdict, names=names, dropped_by=dropped_by))
    path = folder / "report.html"
    path.write_text(render_html(info, make_panels(info, size=128)), encoding="utf-8")
    return path


def ends(page: Page, selector: str) -> float:
    """Return the lower edge of an element in CSS pixels from the top of the page."""
    return float(
        page.evaluate(f"document.querySelector('{selector}').getBoundingClientRect().bottom + scrollY")
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("verdict", get_args(VerdictName))
def test_the_first_screen_of_a_laptop_holds_the_answer(
    browser: Page, tmp_path: Path, verdict: VerdictName, dark: bool
) -> None:
    """Verdict, figures, learning, ladder, experiments and checks are seen without scrolling."""
    browser.open(written(tmp_path, verdict), **LAPTOP, dark=dark)
    for selector in (".verdict", ".learning", "#ladder", ".experiments", ".tally"):
        assert ends(browser, selector) <= LAPTOP["height"], selector
    assert browser.complaints() == []


@pytest.mark.parametrize("verdict", get_args(VerdictName))
def test_the_first_screen_of_a_phone_holds_the_verdict(
    browser: Page, tmp_path: Path, verdict: VerdictName
) -> None:
    """Verdict, figures and the answer on learning fit, and nothing scrolls sideways."""
    browser.open(written(tmp_path, verdict, names=[LONG_NAME, "b", "c"]), **PHONE)
    assert ends(browser, ".verdict") <= PHONE["height"]
    assert ends(browser, ".learning") <= PHONE["height"]
    assert browser.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert browser.complaints() == []


def test_nothing_is_loaded_from_elsewhere(browser: Page, tmp_path: Path) -> None:
    """The browser asks for the file itself and for nothing that is not within it."""
    path = written(tmp_path)
    browser.open(path, **LAPTOP)
    requested = browser.requested()
    assert path.resolve().as_uri() in requested
    assert [url for url in requested if not url.startswith("data:")] == [path.resolve().as_uri()]


def test_every_picture_is_drawn(browser: Page, tmp_path: Path) -> None:
    """Each image decodes to the size that the page reserves for it."""
    browser.open(written(tmp_path), **LAPTOP)
    sizes = browser.evaluate(
        "Promise.all([...document.images].map(async i => { await i.decode(); return"
        " [i.naturalWidth, i.naturalHeight, +i.getAttribute('width'), +i.getAttribute('height')] }))"
    )
    assert len(sizes) >= 18
    assert all(size[:2] == size[2:] for size in sizes)


def test_a_click_sorts_the_images(browser: Page, tmp_path: Path) -> None:
    """The table of images sorts by number, both ways, and unknown values come last both times."""
    browser.open(written(tmp_path), **LAPTOP)
    head = "document.querySelectorAll('table.sortable thead th')[7]"
    column = "[...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[7].textContent)"
    assert browser.evaluate(f"{head}.textContent") == "Predicted Dice"
    browser.evaluate(f"{head}.querySelector('button').click()")
    rising = browser.evaluate(column)
    assert rising[-1] == "–"
    assert rising[:-1] == sorted(rising[:-1], key=float)
    assert browser.evaluate(f"{head}.getAttribute('aria-sort')") == "ascending"
    browser.evaluate(f"{head}.querySelector('button').click()")
    falling = browser.evaluate(column)
    assert falling[-1] == "–"
    assert falling[:-1] == sorted(falling[:-1], key=float, reverse=True)


def test_a_hostile_file_name_runs_nothing(browser: Page, tmp_path: Path) -> None:
    """Markup in a name stays text: no script of it runs, and the policy has nothing to block."""
    name = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
    browser.open(written(tmp_path, names=[name, "b", "c"]), **LAPTOP)
    assert browser.evaluate("typeof window.hacked") == "undefined"
    assert name in browser.evaluate("document.querySelector('#images').textContent")
    assert browser.complaints() == []


def test_the_policy_blocks_scripts_that_are_not_ours(browser: Page, tmp_path: Path) -> None:
    """Even if escaping failed, the policy would stop the script: seen by breaking a page on purpose."""
    path = written(tmp_path)
    broken = path.read_text(encoding="utf-8").replace("<main>", "<script>window.hacked=1</script><main>")
    path.write_text(broken, encoding="utf-8")
    browser.open(path, **LAPTOP)
    assert browser.evaluate("typeof window.hacked") == "undefined"
    assert len(browser.complaints()) == 1


def test_what_dropped_the_policy_is_on_the_first_screen(browser: Page, tmp_path: Path) -> None:
    """A policy that may not ship is said beside the verdict, and the whole answer still fits."""
    path = written(tmp_path, dropped_by=["reward_hacking", "learning"])
    browser.open(path, **LAPTOP)
    assert "may not ship: reward hacking, learning" in browser.evaluate(
        "document.querySelector('.verdict').innerText"
    )
    assert ends(browser, "#ladder") <= LAPTOP["height"]
    browser.open(path, **PHONE)
    assert ends(browser, ".verdict") <= PHONE["height"]
    assert browser.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_no_text_leaves_its_card_on_a_phone(browser: Page, tmp_path: Path) -> None:
    """Whatever is wider than the screen scrolls within its own frame; nothing else is cut."""
    browser.open(written(tmp_path, dropped_by=["reward_hacking"]), **PHONE)
    cut = browser.evaluate(
        "[...document.querySelectorAll('.card *')].filter(e => !e.closest('.scroll, svg, .hidden'))"
        ".filter(e => e.getBoundingClientRect().right > e.closest('.card').getBoundingClientRect().right)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert cut == []


def test_a_table_that_scrolls_shows_it(browser: Page, tmp_path: Path) -> None:
    """The edge beyond which a table goes on is shaded, and is not once its end is reached."""
    browser.open(written(tmp_path), **PHONE)
    frame = "document.querySelector('#numbers .scroll')"
    assert browser.evaluate(f"{frame}.scrollWidth > {frame}.clientWidth")
    before = edges(browser, frame)
    browser.evaluate(f"{frame}.scrollLeft = {frame}.scrollWidth")
    after = edges(browser, frame)
    assert before[1] != after[1]  # the right edge loses its shade
    assert before[0] != after[0]  # and the left one gains its own


def edges(page: Page, frame: str) -> tuple[bytes, bytes]:
    """Return what the outermost pixels of a table's last line look like, left and right."""
    box = page.evaluate(
        f"(b => [b.left + scrollX, b.bottom + scrollY, b.right + scrollX])({frame}.getBoundingClientRect())"
    )
    # The strip below the text of the last row holds background alone.
    shots = [
        page.call(
            "Page.captureScreenshot",
            format="png",
            captureBeyondViewport=True,
            clip={"x": x, "y": box[1] - 14, "width": 6, "height": 3, "scale": 1},
        )["data"]
        for x in (box[0] + 2, box[2] - 8)
    ]
    return base64.b64decode(shots[0]), base64.b64decode(shots[1])


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("verdict", ["invalid", "improved"])
def test_text_has_contrast(browser: Page, tmp_path: Path, verdict: VerdictName, dark: bool) -> None:
    """Every text stands out from what is behind it by 4.5 to 1 (WCAG 2.2 AA), by day and by night."""
    browser.open(written(tmp_path, verdict, dropped_by=["reward_hacking"]), **LAPTOP, dark=dark)
    weak = browser.evaluate(CONTRAST)
    assert weak == []


CONTRAST = """(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const weak = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest('script, title')) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(rgb(element.closest('svg') ? style.fill : style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.add(`${element.tagName}.${element.className} ${ratio.toFixed(2)}`);
  }
  return [...weak];
})()"""
