import fnmatch
import itertools
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import get_args

import pytest

from job.evaluation.results import VerdictName
from job.report.html import render_html
from tests.report.factory import make_info, make_panels
from tests.report.promotions import promoting

HOSTILE = "\"><script>alert('x')</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements, their attributes and the text that people see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open):
            self.text += data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def page(
    verdict: VerdictName = "improved", *, names: Sequence[str] | None = None, is_bare: bool = False
) -> Page:
    info = make_info(verdict, names=names, is_bare=is_bare)
    info = info if is_bare else promoting(info, "invalid" if verdict == "invalid" else "promote")
    return Page(render_html(info, make_panels(info, size=32)))


@pytest.mark.parametrize("verdict", get_args(VerdictName))
@pytest.mark.parametrize("is_bare", [False, True])
def test_every_verdict_has_a_whole_page(verdict: VerdictName, is_bare: bool) -> None:
    """Every verdict, with all or with nothing to show, makes well-formed HTML that says it."""
    shown = page(verdict, is_bare=is_bare)
    headline = verdict.replace("-", " ").capitalize()
    assert headline in shown.text
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", shown.text)
    assert [tag for tag, _ in shown.elements].count("h1") == 1


def test_the_page_needs_nothing_from_outside() -> None:
    """No address but anchors within the page and data URIs, and a policy that forbids all others."""
    shown = page()
    for attributes in shown.all(*{tag for tag, _ in shown.elements}):
        for name in ("href", "src", "srcset", "action", "data", "poster", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/webp;base64,"))
    html = render_html(make_info(), {})
    assert not re.search(r"@import|url\(|https?://|@font-face", html)
    policy = shown.all("meta")[1]["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_everything_has_a_text() -> None:
    """Every picture and drawing has an alternative text, every table header its direction."""
    shown = page()
    assert len(shown.all("img")) >= 18
    assert all(attributes.get("alt") for attributes in shown.all("img"))
    assert all(
        a.get("aria-label") or a.get("aria-hidden") or a.get("class") == "open" for a in shown.all("svg")
    )
    assert all(attributes.get("scope") in ("col", "row", "colgroup") for attributes in shown.all("th"))
    ids = {attributes["id"] for _, attributes in shown.elements if "id" in attributes}
    for _, attributes in shown.elements:
        assert (attributes.get("aria-labelledby") or next(iter(ids))) in ids
        assert (attributes.get("href") or "#verdict")[1:] in ids


def test_headings_skip_no_level() -> None:
    """A heading is at most one level below the one before it."""
    levels = [int(tag[1]) for tag, _ in page().elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_what_was_not_done_has_no_section() -> None:
    """Champion, sweep, seeds, probes, judges and the like are sections of the runs that have them."""
    whole, bare = page(), page(is_bare=True)
    optional = {"numbers", "sweep", "seeds", "probes", "judges", "others", "champion", "drift"}
    ids = {attributes["id"] for _, attributes in whole.elements if "id" in attributes}
    assert optional <= ids
    assert not optional & {attributes["id"] for _, attributes in bare.elements if "id" in attributes}
    assert "#sweep" in {attributes.get("href") for attributes in whole.all("a")}
    assert "#sweep" not in {attributes.get("href") for attributes in bare.all("a")}


def test_what_dropped_the_policy_stands_beside_the_verdict() -> None:
    """The reason is read before the ladder, and is not said of a policy that ships."""
    info = make_info(dropped_by=["reward_hacking"])
    shown = Page(render_html(info, {}))
    said = shown.text.index("The PPO policy may not ship: reward hacking")
    assert said < shown.text.index("The ladder")
    assert "may not ship:" not in page().text


def test_every_check_shows_value_threshold_and_finding() -> None:
    """A check is told by words: its outcome, its figures, what was found and what to do."""
    info = make_info(dropped_by=["reward_hacking"])
    text = " ".join(Page(render_html(info, {})).text.split())
    for check in [*info.checks, *info.results.checks]:
        assert check.finding in text
        assert not check.advice or check.advice[1:] in text
    assert "✗ reward hacking failed −0.012 at least 0" in text
    assert "– stability not measured a single seed" in text
    assert "explained variance" in text


def test_hostile_names_are_text() -> None:
    """File names, prompts and findings that hold markup are shown and never interpreted."""
    info = make_info(names=[HOSTILE, "b", "c"])
    panels = make_panels(info, size=16)
    action = info.actions[0].model_copy(update={"label": HOSTILE, "prompt": HOSTILE})
    hostile = info.model_copy(
        update={
            "name": HOSTILE,
            "run_uri": HOSTILE,
            "actions": [action, *info.actions[1:]],
            "spec": {HOSTILE: HOSTILE},
            "origins": {HOSTILE: HOSTILE},
            "segmenter": {"kind": HOSTILE, "uri": HOSTILE},
            "checks": [replace(info.checks[0], name=HOSTILE, finding=HOSTILE, details={HOSTILE: 1.0})],
            "sweep": [info.sweep[0].model_copy(update={"label": HOSTILE, "reused": [HOSTILE]})],
            "results": info.results.model_copy(
                update={
                    "other_datasets": [
                        other.model_copy(update={"name": HOSTILE, "uri": HOSTILE})
                        for other in info.results.other_datasets
                    ],
                    "protocol": {HOSTILE: HOSTILE},
                }
            ),
        }
    )
    shown = Page(render_html(hostile, panels))
    assert len(shown.all("script")) == 1
    assert not any(name.startswith("on") for _, attributes in shown.elements for name in attributes)
    assert shown.text.count(HOSTILE) >= 4
    assert "49" not in re.findall(r"onerror=alert\(1\)>(\S+)", shown.text)


def test_the_same_run_makes_the_same_page() -> None:
    """No clock and no chance: equal documents make equal bytes."""
    info = make_info()
    panels = make_panels(info, size=16)
    assert render_html(info, panels) == render_html(info, panels)


def test_two_hundred_images_stay_below_five_megabytes() -> None:
    """All test images are on the page, with pictures, and it can still be mailed."""
    info = make_info(n_images=200)
    html = render_html(info, make_panels(info, size=128))
    assert len(html.encode()) < 5_000_000
    shown = Page(html)
    assert len(shown.all("img")) > 300
    assert all(image.name in shown.text for image in info.results.images)


def test_the_page_works_without_pictures() -> None:
    """A run whose masks are gone still has its figures."""
    shown = Page(render_html(make_info(), {}))
    assert shown.all("img") == []
    assert "No picture was kept" in shown.text


def test_given_values_are_told_from_defaults() -> None:
    """A value that was given names its place; a default is called one."""
    html = render_html(make_info(), {})
    rows = re.findall(
        r'<tr( class="given")?><th scope="row">([^<]+)</th><td>[^<]*</td><td>([^<]+)</td>', html
    )
    origins = {path: (bool(given), origin) for given, path, origin in rows}
    assert origins["finetune.total_timesteps"] == (True, "specs/quick.json:9:24")
    assert origins["data.synthetic.train"] == (True, "--set")
    assert origins["seed"] == (False, "default")


def test_templates_are_part_of_the_package() -> None:
    """Whoever installs the program gets every file that the report is made of."""
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    patterns = tomllib.loads(pyproject.read_text())["tool"]["setuptools"]["package-data"]["job"]
    files = [file.name for file in (resources.files("job.report") / "templates").iterdir()]
    assert {"report.html", "report.css", "report.js"} <= set(files)
    missing = [f for f in files if not any(fnmatch.fnmatch(f"report/templates/{f}", p) for p in patterns)]
    assert missing == [], "name their suffixes in package-data of pyproject.toml"
