"""What a segmenter needs besides its weights, told before a job needs it."""

import json
from pathlib import Path
from typing import Any

import pytest

from job import doctor
from job.doctor.findings import Finding
from job.segmenters.remote_code import trust_digest
from tests.segmenters.plugin_package import install
from tests.segmenters.sa2va.stand_in import make


def found(tmp_path: Path, segmenter: dict[str, Any]) -> list[Finding]:
    path = tmp_path / "spec.json"
    output = {"uri": str(tmp_path / "output")}
    path.write_text(json.dumps({"name": "x", "segmenter": segmenter, "output": output}))
    return [one for one in doctor.examine(str(path)) if one.part == "segmenter"]


def test_code_that_is_vouched_for_and_can_run_is_in_order(tmp_path: Path) -> None:
    """Both are told."""
    folder = make(tmp_path / "model")
    section = {"kind": "sa2va", "uri": str(folder), "trust_code": trust_digest(folder)}
    findings = found(tmp_path, section)
    assert [one.severity for one in findings] == ["ok", "ok"]
    assert "4 code files" in findings[0].what


def test_code_that_nobody_vouches_for_is_an_error_with_the_command_to_look(tmp_path: Path) -> None:
    """As the job would say it."""
    folder = make(tmp_path / "model")
    (finding,) = found(tmp_path, {"kind": "sa2va", "uri": str(folder)})
    assert finding.severity == "error"
    assert "python -m job trust" in finding.advice


def test_packages_that_the_code_needs_are_named(tmp_path: Path) -> None:
    """With what installs them; nothing of the code is run to find out."""
    folder = make(tmp_path / "model")
    code = folder / "modeling_sa2va_chat.py"
    code.write_text("import a_package_of_nobody\n" + code.read_text())
    section = {"kind": "sa2va", "uri": str(folder), "trust_code": trust_digest(folder)}
    findings = found(tmp_path, section)
    assert findings[-1].severity == "error"
    assert "a_package_of_nobody" in findings[-1].what
    assert "pip install" in findings[-1].advice


def test_a_plug_in_is_there_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its package's version."""
    section = {"kind": "plugin", "name": "darkness", "uri": str(tmp_path / "model")}
    (missing,) = found(tmp_path, section)
    assert missing.severity == "error"
    monkeypatch.syspath_prepend(str(install(tmp_path / "site")))
    (there,) = found(tmp_path, section)
    assert there == Finding("ok", "segmenter", "the plug-in darkness of seg_darkness 1.2 is installed")


def test_a_checkpoint_of_another_kind_is_told(tmp_path: Path) -> None:
    """By its config.json alone, with the kind to write."""
    folder = make(tmp_path / "model")
    (finding,) = found(tmp_path, {"kind": "clipseg", "uri": str(folder)})
    assert finding.severity == "error"
    assert 'set segmenter.kind to "sa2va"' in finding.advice
