"""What ships: saved, found, loaded, and choosing as it did when it was judged."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.actions import apply
from job.errors import InputError, IntegrityError
from job.evaluation import candidate
from job.evaluation.candidate import Candidate, CandidateFile, chooser_kind, describe, find, load
from job.evaluation.ladder import Ladder
from job.reward import network_file
from job.reward.network import RewardNetworkConfig
from job.spec.segmenter import PromptableUNetSpec
from job.storage.run_folder import RunFolder
from job.storage.tensor_file import read_tensors, write_tensors
from tests.evaluation.conftest import SPACE, World


def file_of(**changes: Any) -> CandidateFile:
    fields: dict[str, Any] = {
        "name": "best_fixed", "verdict": "improved", "segmenter": PromptableUNetSpec(),
        "segmenter_key": "0" * 64,
        "width": None, "prompts": list(SPACE.prompts), "postprocess": [vars(p) for p in SPACE.postprocess],
        "chooser": "fixed", "action": 3, "interval_halfwidth": 0.1, "confidence": 0.9, "review_below": 0.5,
        "trained_on": ["a" * 64],
    }  # fmt: skip
    return CandidateFile(**{**fields, **changes})


def judge(image_HWC: np.ndarray, masks_BHW: np.ndarray) -> np.ndarray:
    """Like large masks; overshoot, as a network without a squashing output may."""
    return 0.5 + 0.6 * masks_BHW.mean(axis=(1, 2))


@pytest.fixture(scope="module")
def ladder(world: World) -> Ladder:
    return world.ladder(policies=world.policies)


@pytest.fixture
def shipped(world: World, ladder: Ladder, tmp_path: Path) -> Any:
    """Write a candidate folder as the job does."""

    def write(**changes: Any) -> Path:
        candidate.save(tmp_path, file_of(**changes), ladder)
        (tmp_path / "reward").mkdir(exist_ok=True)
        network = network_file.scratch(0, RewardNetworkConfig(widths=(4,), readings=1, max_side=16))
        network_file.save(network, tmp_path / candidate.NETWORK)
        world.policy.save(tmp_path / candidate.POLICY)
        return tmp_path

    return write


@pytest.mark.parametrize("name", ["noop", "best_fixed_prompt", "best_fixed", "ridge", "exact", "ppo"])
def test_a_loaded_candidate_chooses_what_its_rung_chose(
    world: World, ladder: Ladder, shipped: Any, name: str
) -> None:
    """On images that neither saw, from the pixels and logits alone; both policies lie in the folder."""
    rung = ladder[name]
    folder = shipped(name=name, chooser=chooser_kind(rung), action=rung.fixed or 0)
    loaded = load(folder, "cpu")
    new = range(12, 24)
    chosen = [loaded.predict(world.images[i], world.segmentations[i]).action for i in new]
    assert chosen == rung.choose(world.table.rows(new)).tolist()
    if name in ("exact", "ppo"):
        other = ladder["ppo" if name == "exact" else "exact"]
        assert chosen != other.choose(world.table.rows(new)).tolist()


def test_the_exact_policy_lies_in_a_file_of_its_own(world: World, ladder: Ladder, shipped: Any) -> None:
    """It ships without PPO's policy, and its file is written only where it ships."""
    assert not (shipped(name="ppo", chooser="ppo") / candidate.EXACT_POLICY).exists()
    folder = shipped(name="exact", chooser=chooser_kind(ladder["exact"]))
    (folder / candidate.POLICY).unlink()
    loaded = load(folder, "cpu")
    assert loaded.policy is not None
    np.testing.assert_array_equal(loaded.policy.layers[0].weight, world.policies["exact"].layers[0].weight)


@pytest.mark.parametrize("name", ["uniform", "confidence", "consensus", "oracle"])
def test_what_cannot_ship_is_no_kind_of_candidate(ladder: Ladder, name: str) -> None:
    """Its rung has no chooser kind."""
    with pytest.raises(KeyError):
        chooser_kind(ladder[name])


def test_the_network_s_choice_is_the_table_s(world: World) -> None:
    """Scores are cut to 0..1 before the best is taken, as in the table: of masks beyond 1 the first wins."""
    shown = Candidate(file_of(chooser="reward_net"), judge)
    ties = []
    for image, answer in zip(world.images, world.segmentations, strict=True):
        size = (image.shape[0], image.shape[1])
        masks = np.stack([apply(SPACE, k, answer.logits_PHW, size) for k in range(4)])
        scores = judge(image, masks)
        ties.append((scores >= 1).sum() > 1)
        prediction = shown.predict(image, answer)
        assert prediction.action == np.clip(scores, 0, 1).argmax()
        assert prediction.quality == np.clip(scores, 0, 1).max()
    assert any(ties)
    assert not all(ties)


def test_a_prediction_holds_both_masks_and_a_quality_with_its_interval(world: World) -> None:
    """The mask of the action, the user's mask of today, and a flag below the threshold."""
    image, answer = world.images[1], world.segmentations[1]
    mask = apply(SPACE, 3, answer.logits_PHW, (16, 16))
    quality = float(np.clip(judge(image, mask[None])[0], 0, 1))
    found = Candidate(file_of(review_below=quality), judge).predict(image, answer)
    np.testing.assert_array_equal(found.mask_HW, mask)
    np.testing.assert_array_equal(found.noop_HW, apply(SPACE, 0, answer.logits_PHW, (16, 16)))
    assert (found.quality, found.low, found.high) == (quality, max(0, quality - 0.1), min(1, quality + 0.1))
    assert not found.review
    flagged = Candidate(file_of(review_below=np.nextafter(quality, 2)), judge).predict(image, answer)
    assert flagged.review


def test_the_field_of_view_reaches_the_chooser(world: World) -> None:
    """A policy was fitted on statistics inside the field of view: prediction must take them there too."""
    seen: list[np.ndarray] = []

    class Watching:
        def choose(self, embeddings_NE: np.ndarray, statistics_NS: np.ndarray) -> np.ndarray:
            seen.append(statistics_NS)
            return np.zeros(1, np.int64)

    fov = np.zeros((16, 16), np.bool_)
    fov[:8, :8] = True
    shown = Candidate(file_of(chooser="ppo"), judge, policy=Watching())  # type: ignore[arg-type]
    shown.predict(world.images[0], world.segmentations[0])
    shown.predict(world.images[0], world.segmentations[0], fov)
    red = world.table.statistic_names.index("mean_red")
    assert seen[1][0, red] == pytest.approx(world.images[0][:8, :8, 0].mean() / 255, rel=1e-5)
    assert seen[0][0, red] == world.table.statistics_NS[0, red]


def test_a_candidate_is_found_by_file_folder_or_name(tmp_path: Path) -> None:
    """The newest finished run where a folder of runs is named, the champion where a model is."""
    run = RunFolder(tmp_path, "vessels", "one")
    run.write("candidate.json", file_of().model_dump_json())
    run.seal(exit_code=0, verdict="improved", identity="x")
    path = run.path / "candidate.json"
    assert [find(place) for place in (path, run.path, run.path.parent)] == [path] * 3
    digest = hashlib.sha256((run.path / "manifest.json").read_bytes()).hexdigest()
    champion = tmp_path / "models" / "vessels" / "champion.json"
    champion.parent.mkdir(parents=True)
    champion.write_text(json.dumps({"current": {"run": "runs/vessels/one", "manifest_sha256": digest}}))
    assert find(champion.parent) == path
    with pytest.raises(InputError, match="no finished run"):
        find(tmp_path)
    with pytest.raises(InputError, match="no candidate there"):
        find(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2}, {"action": 4}, {"action": -1}, {"prompts": []}, {"chooser": "oracle"},
        {"postprocess": [{"threshold": 2.0}]}, {"postprocess": [{"sharpen": 1}]}, {"unknown": 1},
        {"width": 0}, {"width": -5},
    ],
)  # fmt: skip
def test_a_document_that_is_no_candidate_is_refused(shipped: Any, change: dict[str, Any]) -> None:
    """As an integrity failure with the field's name, before anything is segmented."""
    path = shipped() / "candidate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match="not a candidate") as caught:
        load(path, "cpu")
    assert caught.value.advice


def test_a_missing_or_damaged_part_is_named(shipped: Any) -> None:
    """The reward network, the ridge chooser, the policy."""
    for chooser, part in (
        ("fixed", candidate.NETWORK),
        ("ridge", candidate.RIDGE),
        ("ppo", candidate.POLICY),
        ("exact", candidate.EXACT_POLICY),
    ):
        folder = shipped(chooser=chooser)
        (folder / part).write_bytes(b"damaged")
        with pytest.raises(IntegrityError, match=Path(part).name):
            load(folder, "cpu")
        (folder / part).unlink()
        with pytest.raises(InputError, match=rf"{Path(part).name}.* the run folder is incomplete") as caught:
            load(folder, "cpu")
        assert "reward.network.uri" not in caught.value.advice


@pytest.mark.parametrize("chooser", ["ppo", "exact", "ridge"])
@pytest.mark.parametrize(
    "change",
    [
        {"postprocess": [{"threshold": 0.5}]},
        {"prompts": ["vessels", "thin vessels", "thick vessels"]},
    ],
)
def test_a_chooser_made_for_other_actions_is_refused(
    shipped: Any, chooser: str, change: dict[str, Any]
) -> None:
    """On loading, not at the first image that it sends to an action that there is not."""
    folder = shipped(chooser=chooser, action=0, **change)
    with pytest.raises(IntegrityError, match="other actions") as caught:
        load(folder, "cpu")
    assert caught.value.advice


def test_a_policy_whose_actions_stand_in_another_order_is_refused(shipped: Any) -> None:
    """As many actions, and every number means another one."""
    with pytest.raises(IntegrityError, match="other actions"):
        load(shipped(chooser="ppo", prompts=list(reversed(SPACE.prompts))), "cpu")


@pytest.mark.parametrize(
    ("chooser", "file"),
    [("ppo", candidate.POLICY), ("exact", candidate.EXACT_POLICY), ("ridge", candidate.RIDGE)],
)
def test_a_chooser_made_for_other_statistics_is_refused(shipped: Any, chooser: str, file: str) -> None:
    """Its actions fit, and the numbers that it would be given are not those that it was fitted on."""
    folder = shipped(chooser=chooser)
    part = folder / file
    tensors, document = read_tensors(part)
    document["statistic_names"] = [name.upper() for name in document["statistic_names"]]
    write_tensors(part, tensors, document)
    with pytest.raises(IntegrityError, match="other statistics"):
        load(folder, "cpu")


def test_a_ridge_file_with_other_tensors_is_refused(shipped: Any) -> None:
    """Readable, but not a chooser."""
    path = shipped(chooser="ridge") / candidate.RIDGE
    tensors, document = read_tensors(path)
    write_tensors(path, tensors, {})
    with pytest.raises(IntegrityError, match="not a ridge chooser"):
        load(path.parent, "cpu")
    write_tensors(path, {name: tensors[name] for name in tensors if name != "ridge.rule"}, document)
    with pytest.raises(IntegrityError, match="not a ridge chooser"):
        load(path.parent, "cpu")


def test_one_line_says_what_it_does() -> None:
    """The action for a fixed one, the number of actions otherwise."""
    assert describe(file_of()) == f"best_fixed: {SPACE[3].label}"
    assert describe(file_of(name="ppo", chooser="ppo")) == "ppo: chooses among 4 actions per image"
