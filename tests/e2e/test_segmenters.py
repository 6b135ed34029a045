"""The whole job with each kind of segmenter, then `evaluate` and `predict` with what it ships."""

import json
from pathlib import Path
from typing import Any

import pytest

from job.segmenters.precomputed.layout import slug
from tests.e2e.child import TINY, Finished, run_here, run_job
from tests.segmenters import plugin_package, precomputed_files
from tests.segmenters.sa2va import stand_in
from tests.segmenters.text_prompted import tiny

pytestmark = pytest.mark.timeout(300)  # a test is several runs, one after the other

PROMPTS = json.loads(Path(TINY).read_text())["actions"]["prompts"]


def spec_with(folder: Path, segmenter: dict[str, Any], **sections: Any) -> str:
    """Write specs/tiny.json with a segmenter of its own; returns the path."""
    document = json.loads(Path(TINY).read_text()) | sections
    path = folder / "spec.json"
    path.write_text(json.dumps({**document, "segmenter": segmenter, "runtime": {"threads": 1}}))
    return str(path)


def run(*words: str, cwd: Path, site: Path | None = None) -> Finished:
    """Run the program; packages are installed for a process of its own alone."""
    return run_job(*words, cwd=cwd, site=site) if site else run_here(*words, cwd=cwd)


def finished(spec: str, folder: Path, site: Path | None = None) -> Finished:
    done = run(spec, cwd=folder, site=site)
    assert done.code == 0, done.stderr
    return done


def dataset(folder: Path, name: str, *, seed: int, **counts: int) -> None:
    sizes = [word for split, n in counts.items() for word in (f"--{split}", str(n))]
    made = run("dataset", "make", name, *sizes, "--size", "64", "--seed", str(seed), cwd=folder)
    assert made.code == 0, made.stderr


def require_at_work(done: Finished, folder: Path, *more: str, site: Path | None = None) -> None:
    """Let the candidate of a run measure and segment images that it never saw."""
    if not (folder / "fresh").exists():
        dataset(folder, "fresh", seed=77, train=0, validation=0, test=3)
    words = ("--data", "fresh", "--format", "json", *more)
    measured = run("evaluate", str(done.run), *words, cwd=folder, site=site)
    assert measured.code == 0, measured.stderr
    assert json.loads(measured.stdout)["images"] == 3
    words = ("fresh/images", "--output", "masks", *more)
    predicted = run("predict", str(done.run), *words, cwd=folder, site=site)
    assert predicted.code == 0, predicted.stderr
    assert len(list((folder / "masks").glob("*.png"))) == 3


def candidate_of(done: Finished) -> dict[str, Any]:
    return json.loads((done.run / "candidate.json").read_text())["segmenter"]


def test_sa2va_is_vouched_for_compared_and_reported(tmp_path: Path) -> None:
    """Refused without a digest, naming the command that gives one; then the whole job by that digest."""
    stand_in.make(tmp_path / "model")
    segmenter = {"kind": "sa2va", "uri": "model", "dtype": "float32", "verify_pairs": 3}
    refused = run(spec_with(tmp_path, segmenter), cwd=tmp_path)
    assert refused.code == 4
    assert "python -m job trust model" in refused.stderr
    told = json.loads(run("trust", "model", "--format", "json", cwd=tmp_path).stdout)
    spec = spec_with(tmp_path, {**segmenter, "trust_code": told["trust_code"]})
    done = finished(spec, tmp_path)
    (verified,) = done.named("segmenter.verified")
    assert (verified["pairs"], verified["differing_pixels"]) == (3, 0)
    assert done.info["agreement"]["mean_iou"] == 1.0
    assert done.info["segmentations"]["fallback_pairs"] == 0
    report = (done.run / "report.md").read_text()
    assert "3 of 3 masks equal" in report
    assert "0 replies without seg" in report
    # A candidate cannot vouch for itself: whoever may write one could have any code run.
    require_at_work(done, tmp_path, "--trust-code", told["trust_code"])
    alone = run("predict", str(done.run), "fresh/images", "--output", "others", cwd=tmp_path)
    assert alone.code == 4
    assert f'set --trust-code to "{told["trust_code"]}"' in alone.stderr
    assert not (tmp_path / "others").exists()


def test_clipseg_runs_from_its_folder_alone(tmp_path: Path) -> None:
    """Safetensors and JSON, no code; the candidate says which network and dtype it was."""
    tiny.make(tmp_path / "model", "clipseg")
    done = finished(spec_with(tmp_path, {"kind": "clipseg", "uri": "model", "batch_size": 4}), tmp_path)
    assert (candidate_of(done)["kind"], candidate_of(done)["dtype"]) == ("clipseg", "float32")
    assert "clipseg model" in (done.run / "report.md").read_text()
    require_at_work(done, tmp_path)


def test_a_plug_in_of_another_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    """The whole job, and its candidate, with a segmenter that this program does not know."""
    site = plugin_package.install(tmp_path / "site")
    plugin_package.checkpoint(tmp_path / "model")
    segmenter = {"kind": "plugin", "name": "darkness", "uri": "model", "options": {"level": 0.45}}
    spec = spec_with(tmp_path, segmenter)
    missing = run(spec, cwd=tmp_path)
    assert missing.code == 2
    assert "no installed package offers a segmenter called 'darkness'" in missing.stderr
    done = finished(spec, tmp_path, site)
    assert candidate_of(done)["options"] == {"level": 0.45}
    require_at_work(done, tmp_path, site=site)


@pytest.mark.parametrize("options", [{"level": 2}, {"lvl": 0.4}])
def test_options_that_a_plug_in_refuses_end_with_2(tmp_path: Path, options: dict[str, Any]) -> None:
    """Before any stage."""
    site = plugin_package.install(tmp_path / "site")
    plugin_package.checkpoint(tmp_path / "model")
    segmenter = {"kind": "plugin", "name": "darkness", "uri": "model", "options": options}
    done = run(spec_with(tmp_path, segmenter), cwd=tmp_path, site=site)
    assert done.code == 2
    assert "between 0 and 1" in done.stderr
    assert not done.named("stage.started")


def test_probabilities_of_another_program_are_enough(tmp_path: Path) -> None:
    """Train, test, evaluate and predict without a model; new images bring their probabilities along."""
    dataset(tmp_path, "data", seed=3, train=6, validation=4, test=6)
    probabilities = precomputed_files.compute(tmp_path / "data", tmp_path / "maps", PROMPTS)
    stem = f"{slug(PROMPTS[1])}.png"
    first = min(probabilities.iterdir())
    spec = spec_with(tmp_path, {"kind": "precomputed", "uri": "maps"}, data={"uri": "data", "width": 56})
    whole = (first / stem).read_bytes()
    (first / stem).rename(tmp_path / "away")
    missing = run(spec, cwd=tmp_path)
    assert missing.code == 3
    assert f"maps/{first.name}/{stem.removesuffix('.png')}" in missing.stderr
    (first / stem).write_bytes(whole[:100])
    damaged = run(spec, cwd=tmp_path)
    assert damaged.code == 4
    assert f"maps/{first.name}/{stem}" in damaged.stderr
    (first / stem).write_bytes(whole)
    done = finished(spec, tmp_path)
    assert done.info["results"]["ladder"]
    assert candidate_of(done)["kind"] == "precomputed"
    # Names of other images may be equal: they have a folder of their own.
    dataset(tmp_path, "fresh", seed=77, train=0, validation=0, test=3)
    precomputed_files.compute(tmp_path / "fresh", tmp_path / "fresh-maps", PROMPTS)
    require_at_work(done, tmp_path, "--segmenter", "fresh-maps")
