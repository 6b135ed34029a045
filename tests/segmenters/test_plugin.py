"""Segmenters of other packages: found by entry point, keyed by version and options, held to the protocol."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.data.image_names import NAMELESS
from job.errors import InputError, SpecError
from job.segmenters import content_key
from job.segmenters.plugin import PluginFamily, entry_point
from job.spec.segmenter import PluginSpec
from tests.segmenters.plugin_package import MODULE, checkpoint, install


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages on the path, with the plug-in `darkness`."""
    folder = install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for module in set(sys.modules) - before:
        if module.startswith("seg_"):
            del sys.modules[module]


def spec_of(folder: Path, **changes: Any) -> PluginSpec:
    fields = {"kind": "plugin", "name": "darkness", "uri": str(folder), "options": {"level": 0.5}, **changes}
    return PluginSpec.model_validate(fields)


def test_it_segments_as_the_package_says(site: Path, tmp_path: Path) -> None:
    """The options reach it, and its answers come through."""
    folder = checkpoint(tmp_path / "model", 0.1)
    segmenter = PluginFamily("darkness", {"level": 0.4}).load(folder, "cpu", None, NAMELESS)
    image = np.full((4, 6, 3), 51, np.uint8)
    (answer,) = segmenter.segment([image], ["ab"])
    np.testing.assert_allclose(answer.logits_PHW, np.full((1, 4, 6), (0.5 - 0.2) * 8 + 0.02), atol=1e-3)
    assert segmenter.key == content_key(spec_of(folder, options={"level": 0.4}), folder)


def test_the_key_follows_content_options_and_version(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even for a plug-in that forgets its own options, as this one does."""
    folder, other = checkpoint(tmp_path / "model"), checkpoint(tmp_path / "other", 0.2)
    keys = {
        content_key(spec_of(folder), folder),
        content_key(spec_of(folder, options={"level": 0.6}), folder),
        content_key(spec_of(other), other),
    }
    (site / "seg_darkness-1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: seg_darkness\nVersion: 1.3\n"
    )
    keys.add(content_key(spec_of(folder), folder))
    assert len(keys) == 4


def test_a_plug_in_that_is_not_installed_is_named_with_those_that_are(site: Path) -> None:
    """Nothing is imported for it."""
    with pytest.raises(SpecError, match="'nnunet'; there are: darkness"):
        entry_point("nnunet")
    assert "seg_darkness" not in sys.modules


def test_two_packages_of_one_name_are_refused(site: Path, tmp_path: Path) -> None:
    """Which of them comes first on the path must not decide."""
    info = site / "another-2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 2\n")
    (info / "entry_points.txt").write_text("[segmenter_rl_job.segmenters]\ndarkness = another_module\n")
    with pytest.raises(SpecError, match="several packages"):
        entry_point("darkness")


def test_options_that_it_refuses_are_the_specs_fault(site: Path, tmp_path: Path) -> None:
    """In the plug-in's own words."""
    folder = checkpoint(tmp_path / "model")
    with pytest.raises(SpecError, match=r"segmenter\.options: .* between 0 and 1"):
        content_key(spec_of(folder, options={"level": 7}), folder)
    with pytest.raises(InputError, match=r"segmenter\.uri: .*bias\.txt"):
        content_key(spec_of(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("instead", "what"),
    [
        ("np.stack(logits).astype(np.float32)", "logits are float32"),
        ("np.stack(logits[:1] * 3).astype(np.float16)", r"logits are float16 \(3, 4, 6\)"),
        ("np.stack(logits).astype(np.float16)[:, :0]", r"logits are float16 \(2, 0, 6\)"),
        ("{}[prompts[1]]", r"failed in segment: KeyError: 'b' \(seg_odd14\.py, line 36\)"),
        ("__import__('sys').exit(0)", r"failed in segment: SystemExit: 0 \(seg_odd25\.py, line 36\)"),
    ],
)
def test_answers_that_break_the_protocol_are_blamed_on_the_plug_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instead: str, what: str
) -> None:
    """Not on the cache or the metrics, which would stumble over them later."""
    module = MODULE.replace("np.stack(logits).astype(np.float16)", instead)
    assert module != MODULE
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", name=f"odd{len(instead)}", module=module)))
    family = PluginFamily(f"odd{len(instead)}", {"level": 0.5})
    segmenter = family.load(checkpoint(tmp_path / "model"), "cpu", None, NAMELESS)
    with pytest.raises(SpecError, match=what):
        segmenter.segment([np.zeros((4, 6, 3), np.uint8)], ["a", "b"])


def test_answers_are_segmentations_with_embeddings_of_one_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables are stacked of them."""
    module = MODULE.replace("*image.mean((0, 1)) / 255]", "*image[0, :, 0]]")
    assert module != MODULE
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", name="wide", module=module)))
    segmenter = PluginFamily("wide", {"level": 0.5}).load(
        checkpoint(tmp_path / "model"), "cpu", None, NAMELESS
    )
    segmenter.segment([np.zeros((4, 6, 3), np.uint8)], ["a"])
    with pytest.raises(SpecError, match="embeddings have 8 numbers and 7"):
        segmenter.segment([np.zeros((4, 5, 3), np.uint8)], ["a"])


def test_what_a_plug_in_prints_is_no_line_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor what it asks of the root logger a rule for everybody."""
    module = "import logging\nlogging.basicConfig(level=0)\n" + MODULE.replace(
        "    def segment(self, images, prompts):",
        "    def segment(self, images, prompts):\n        print('words')",
    )
    assert "words" in module
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", name="loud", module=module)))
    family = PluginFamily("loud", {"level": 0.5})
    before = list(logging.getLogger().handlers)
    segmenter = family.load(checkpoint(tmp_path / "model"), "cpu", None, NAMELESS)
    segmenter.segment([np.zeros((4, 6, 3), np.uint8)], ["a"])
    assert logging.getLogger().handlers == before
    print("own")  # noqa: T201
    assert capfd.readouterr().out == "own\n"


def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it lacks."""
    monkeypatch.syspath_prepend(
        str(install(tmp_path / "site", name="lame", module="import a_module_of_nobody\n"))
    )
    with pytest.raises(SpecError, match=r"lame .*a_module_of_nobody"):
        PluginFamily("lame", {}).content_key(tmp_path, None)
