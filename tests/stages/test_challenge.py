"""The champion meets tonight's candidate: on which images, through which segmenter, with what decision."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from job import segmenters
from job.actions import apply
from job.data import synthetic
from job.data.dataset import read_folder
from job.data.features import statistics_vector
from job.data.images import pixel_digest
from job.errors import InputError, IntegrityError
from job.evaluation import candidate as candidates
from job.evaluation.arms import MEASURED, Arm, Arms
from job.evaluation.candidate import CandidateFile
from job.evaluation.drift import PROFILE, UNKNOWN, Profile
from job.evaluation.verdict import decide
from job.metrics.statistics import Interval, Uplift, paired_uplift, patient_interval
from job.progress import SILENT
from job.publish.champion import ChampionFile, Incumbent, Reign
from job.publish.training_info import Promotion
from job.reward import network_file
from job.reward.network import RewardNetworkConfig
from job.reward.terms import METRICS, measure
from job.segmenters.remote_code import trust_digest
from job.spec.job import JobSpec
from job.spec.segmenter import PromptableUNetSpec, Sa2vaSpec
from job.stages import LEARNING, challenge, evaluate, reward, stages_of
from job.stages.stage import StageContext, StageResult
from tests.report.factory import make_info
from tests.segmenters.fakes import FakeSegmenter, segmentation_of
from tests.stages.made_up_stages import finished, spec_of

NIGHT = 3
"""The action that ships tonight."""
BEFORE = 1
"""The champion's."""


class Night:
    """A finished evaluate stage, and a champion whose run had all images but the two last test images."""

    def __init__(self, root: Path, *, width: int | None = None) -> None:
        self.root = root
        data = root / "data"
        if not data.exists():
            synthetic.make_dataset(
                data, train=3, validation=2, test=8, unlabelled=1, size=64, seed=0, annotation="all",
                progress=SILENT,
            )  # fmt: skip
        context = finished(root / "night", spec_of(data={"uri": str(data), "width": width}))
        self.samples = read_folder(data)
        self.test = [sample for sample in self.samples if sample.split == "test"]
        for name in ("pull", "evaluate"):
            (root / "night" / name).mkdir()
        splits = {sample.name: sample.split for sample in self.samples}
        (root / "night/pull/splits.json").write_text(json.dumps(splits))
        digests = {split: split for split in ("train", "validation", "test", "unlabelled")}
        done = {
            **context.done,
            "pull": StageResult("pull", "a" * 32, root / "night/pull", digests, 0.0, reused=False),
            "evaluate": StageResult("evaluate", "b" * 32, root / "night/evaluate", {}, 0.0, reused=False),
        }
        out = root / "night/out"
        out.mkdir()
        self.context: StageContext = replace(
            context, inputs=replace(context.inputs, data=data), done=done, folder=out
        )
        self.dataset = challenge.pull.open_dataset(self.context)
        self._evaluated()
        self._champion()

    def images(self, width: int | None = None) -> dict[str, Any]:
        return {s.name: replace(self.dataset, width=width).load(s) for s in self.samples}

    def dice(self, action: int) -> np.ndarray:
        """Dice of an action on the test images at tonight's width, recomputed from the fake's logits."""
        found = []
        for sample in self.test:
            loaded = self.dataset.load(sample)
            assert loaded.truth is not None
            logits = segmentation_of(loaded.image, self.context.space.prompts).logits_PHW
            mask = apply(self.context.space, action, logits, loaded.truth.shape)
            found.append(measure(mask[None], loaded.truth)["dice"][0])
        return np.array(found)

    def candidate(self, action: int, **changes: Any) -> CandidateFile:
        space = self.context.space
        fields: dict[str, Any] = {
            "name": "best_fixed", "verdict": "improved", "segmenter": PromptableUNetSpec(),
            "segmenter_key": self.context.segmentations.key, "width": self.dataset.width,
            "prompts": list(space.prompts), "postprocess": [vars(p) for p in space.postprocess],
            "chooser": "fixed", "action": action, "interval_halfwidth": 0.1, "confidence": 0.9,
            "review_below": 0.5, "trained_on": [],
        }  # fmt: skip
        return CandidateFile(**{**fields, **changes})

    def meet(self) -> Promotion:
        """Run the stage and return its decision."""
        done = challenge.run(self.context)
        text = (self.context.folder / challenge.PROMOTION).read_text()
        assert done == {"promotion": challenge.sha256_json(json.loads(text))}
        return Promotion.model_validate_json(text)

    def champion_is(self, **changes: Any) -> None:
        """Change what the champion's candidate.json says."""
        path = self.champion / candidates.CANDIDATE
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def _evaluated(self) -> None:
        folder, space = self.root / "night/evaluate", self.context.space
        patients = [sample.patient for sample in self.test]
        mine, noop = self.dice(NIGHT), self.dice(0)
        verdict = decide(
            valid=True, ships="best_fixed", before=patient_interval(noop, patients),
            after=patient_interval(mine, patients), vs_noop=paired_uplift(mine, noop, patients),
            learned_vs_best_fixed={}, smallest_effect=0.01,
        )  # fmt: skip
        results = make_info("improved", n_images=6).results.model_copy(update={"verdict": verdict})
        (folder / evaluate.RESULTS).write_text(results.model_dump_json())
        arms = [_arm("noop", noop), _arm("best_fixed", mine)]
        names = tuple(sample.name for sample in self.test)
        Arms(tuple(arms), names, tuple(patients), names, ("v",)).save(folder / MEASURED)
        pixels = {s.name: pixel_digest(self.dataset.load(s).image) for s in self.samples}
        (folder / evaluate.PIXELS).write_text(json.dumps(pixels))
        candidate = self.candidate(NIGHT)
        (folder / candidates.CANDIDATE).write_text(candidate.model_dump_json())
        assert len(space) == 4

    def _champion(self) -> None:
        self.champion = self.root / "champion"
        (self.champion / "reward").mkdir(parents=True)
        network = network_file.scratch(0, RewardNetworkConfig(widths=(4,), readings=1, max_side=16))
        network_file.save(network, self.champion / candidates.NETWORK)
        file = self.candidate(BEFORE)
        (self.champion / candidates.CANDIDATE).write_text(file.model_dump_json())
        self.had = [sample for sample in self.samples if sample not in self.test[-2:]]
        loaded = [self.dataset.load(sample) for sample in self.had]
        described = [
            statistics_vector(one.image, one.fov, segmentation_of(one.image, file.prompts).logits_PHW)
            for one in loaded
        ]
        Profile(
            pixels=tuple(pixel_digest(one.image) for one in loaded),
            splits=tuple(sample.split or "" for sample in self.had),
            patients=tuple(sample.patient for sample in self.had),
            statistic_names=described[0][0],
            labels=tuple(action.label for action in self.context.space),
            statistics_NS=np.stack([values for _, values in described]),
            actions_N=np.array([BEFORE if s.split == "test" else UNKNOWN for s in self.had]),
            dice_N=np.array([0.5 if s.split == "test" else np.nan for s in self.had]),
        ).save(self.champion / "evaluation" / PROFILE)
        none = Interval(0.5, 0.4, 0.6, 8)
        uplift = Uplift(0.1, 0.05, 0.15, 0.1, 8, 8, 8, 0, 0, 0.01, "t")
        record = ChampionFile(
            name="x", generation=4, current=Reign(run="runs/x/old", manifest_sha256="c" * 64, promoted_at=""),
            previous=None, by="job", reason="", candidate="best_fixed: the old one", dice=none,
            vs_noop=uplift, vs_champion=None, data_fingerprint="",
        )  # fmt: skip
        met = Incumbent(record, "etag", self.champion)
        self.context = replace(self.context, inputs=replace(self.context.inputs, champion=met))


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def test_both_are_scored_on_the_same_test_images_and_no_model_is_called(night: Night) -> None:
    """The champion's Dice is that of its action; segmenter and prompts are tonight's, so all is known."""
    for loaded in night.images().values():
        night.context.segmentations.get([loaded.image])
    computed = night.context.segmentations.computed
    found = night.meet()
    patients = [sample.patient for sample in night.test]
    assert found.vs_champion == paired_uplift(night.dice(NIGHT), night.dice(BEFORE), patients)
    assert found.champion_dice == patient_interval(night.dice(BEFORE), patients)
    assert (found.n_images, found.left_out, found.generation) == (8, 0, 4)
    assert (found.champion, found.champion_candidate) == ("runs/x/old", "best_fixed: the old one")
    assert night.context.segmentations.computed == computed


def test_what_the_champion_learned_from_is_left_out(night: Night) -> None:
    """By the pixels, whatever the images are called tonight."""
    learned = [pixel_digest(night.dataset.load(sample).image) for sample in night.test[:2]]
    night.champion_is(trained_on=learned)
    found = night.meet()
    patients = [sample.patient for sample in night.test[2:]]
    assert (found.n_images, found.left_out) == (6, 2)
    assert found.vs_champion == paired_uplift(night.dice(NIGHT)[2:], night.dice(BEFORE)[2:], patients)


def test_drift_is_of_the_images_that_the_champion_s_run_did_not_have(night: Night) -> None:
    """Two of them: with the champion's Dice, and beside what its run measured."""
    drift = night.meet().drift
    assert drift is not None
    assert (drift.known_images, drift.new_images) == (len(night.had), 2)
    new = night.test[-2:]
    dice = night.dice(BEFORE)[-2:]
    assert drift.champion_dice_new == patient_interval(dice, [sample.patient for sample in new])
    assert drift.champion_dice_known is not None
    assert drift.champion_dice_known.mean == 0.5
    assert drift.actions_known == drift.actions_new == [0.0, 1.0, 0.0, 0.0]
    images = [night.dataset.load(sample) for sample in new]
    described = [
        statistics_vector(
            one.image, one.fov, segmentation_of(one.image, night.context.space.prompts).logits_PHW
        )
        for one in images
    ]
    for statistic in drift.statistics:
        column = described[0][0].index(statistic.name)
        assert statistic.mean_new == pytest.approx(np.mean([values[column] for _, values in described]))


def test_what_is_in_use_already_is_recognised(night: Night) -> None:
    """Equal conduct is enough: what it was trained on, and how sure it is, may differ."""
    assert "in use already" not in night.meet().sentence
    night.champion_is(action=NIGHT, trained_on=["f" * 64], interval_halfwidth=0.2)
    assert "in use already" in night.meet().sentence


@pytest.mark.parametrize("same", [True, False])
def test_choosers_are_equal_when_their_files_are(night: Night, same: bool) -> None:
    """The arg-max of a reward network is another candidate with another network."""
    path = night.root / "night/evaluate" / candidates.CANDIDATE
    path.write_text(night.candidate(NIGHT, chooser="reward_net").model_dump_json())
    night.champion_is(chooser="reward_net")
    network = night.root / "night/reward" / reward.NETWORK
    shutil.copy(night.champion / candidates.NETWORK, network)
    if not same:
        other = network_file.scratch(1, RewardNetworkConfig(widths=(4,), readings=1, max_side=16))
        network_file.save(other, network)
    assert ("in use already" in night.meet().sentence) == same


def test_a_champion_of_another_width_sees_images_at_its_own(tmp_path: Path) -> None:
    """Its masks are brought to tonight's grid, and images are told apart at its width."""
    night = Night(tmp_path, width=32)
    own = night.images()
    path = night.champion / "evaluation" / PROFILE
    pixels = tuple(pixel_digest(own[sample.name].image) for sample in night.had)
    replace(Profile.load(path), pixels=pixels).save(path)
    night.champion_is(width=None)
    found = night.meet()
    dice = []
    for sample in night.test:
        loaded, truth = own[sample.name], night.dataset.load(sample).truth
        logits = segmentation_of(loaded.image, night.context.space.prompts).logits_PHW
        mask = apply(night.context.space, BEFORE, logits, (64, 64))
        small = np.array(Image.fromarray(mask).resize((32, 32), Image.Resampling.NEAREST))
        dice.append(measure(small[None], truth)["dice"][0])
    assert found.champion_dice == patient_interval(dice, [sample.patient for sample in night.test])
    assert found.drift is not None
    assert found.drift.new_images == 2


def test_other_prompts_are_asked_of_the_same_segmenter(night: Night) -> None:
    """Those that tonight does not know; the answers are counted."""
    night.champion_is(prompts=["a", "a prompt of old"])
    profile = night.champion / "evaluation" / PROFILE
    known = Profile.load(profile)
    space = CandidateFile.model_validate_json((night.champion / candidates.CANDIDATE).read_bytes()).space
    replace(known, labels=tuple(action.label for action in space)).save(profile)
    night.meet()
    assert night.context.segmentations.computed == 2 * len(night.test)


def test_another_segmenter_is_opened_for_the_champion(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where its job had it; one that is another by now is refused."""
    other = hashlib.sha256(b"other").hexdigest()
    night.champion_is(segmenter_key=other)
    opened: list[Path] = []

    class Inverse(FakeSegmenter):
        def segment(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Any]:
            return [
                replace(found, logits_PHW=-found.logits_PHW) for found in super().segment(images, prompts)
            ]

    def load(spec: Any, folder: Path, *rest: Any, **more: Any) -> FakeSegmenter:
        opened.append(folder)
        return Inverse()

    monkeypatch.setattr(segmenters, "load", load)
    monkeypatch.setattr(segmenters, "content_key", lambda *_: other)
    champion = night.context.inputs.champion
    assert champion is not None
    there = replace(champion, segmenter=night.root / "fetched")
    night.context = replace(night.context, inputs=replace(night.context.inputs, champion=there))
    found = night.meet()
    assert opened == [night.root / "fetched"]
    assert found.champion_dice is not None
    assert found.champion_dice.mean != pytest.approx(float(night.dice(BEFORE).mean()))
    monkeypatch.setattr(segmenters, "content_key", lambda *_: "0" * 64)
    with pytest.raises(InputError, match="is not the segmenter that it was made for"):
        challenge.check(night.context)


def test_a_champion_cannot_vouch_for_its_own_code(night: Night, tmp_path: Path) -> None:
    """Its file lies in the bucket, which others may write; tonight's spec vouches, or nothing is run."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "m.M"}}')
    (folder / "m.py").write_text("raise AssertionError('this was run')")
    (folder / "model.safetensors").write_bytes(b"w")
    section = {"kind": "sa2va", "uri": str(folder), "trust_code": trust_digest(folder)}
    night.champion_is(segmenter=section, segmenter_key="0" * 64)
    with pytest.raises(IntegrityError, match="only if you vouch for them"):
        challenge.check(night.context)
    tonight = night.context.spec.model_copy(update={"segmenter": Sa2vaSpec.model_validate(section)})
    night.context = replace(night.context, spec=tonight)
    with pytest.raises(InputError, match="is not the segmenter that it was made for"):
        challenge.check(night.context)  # beyond trust: its key is another one


def test_a_champion_that_cannot_be_used_is_an_error_that_says_what_to_do(night: Night) -> None:
    """Before hours of work as well as at their end; never the same as no champion."""
    challenge.check(night.context)
    profile = night.champion / "evaluation" / PROFILE
    profile.rename(profile.with_suffix(".away"))
    for use in (challenge.check, challenge.run):
        with pytest.raises(InputError, match=r"champion runs/x/old cannot be compared.*missing") as missing:
            use(night.context)
        assert "promote .../models/x --to RUN_ID" in missing.value.advice
    profile.write_bytes(b"rotten")
    with pytest.raises(IntegrityError, match="cannot be compared with"):
        challenge.check(night.context)
    (night.champion / candidates.NETWORK).unlink()
    with pytest.raises(InputError, match="incomplete") as incomplete:
        challenge.check(night.context)
    assert "promote" in incomplete.value.advice


def test_without_a_champion_there_is_nobody_to_meet(night: Night) -> None:
    """The verdict decides, no image is read, and no drift is told."""
    night.context = replace(night.context, inputs=replace(night.context.inputs, champion=None))
    challenge.check(night.context)
    found = night.meet()
    assert (found.champion, found.generation, found.drift) == (None, 0, None)
    assert "no champion yet" in found.sentence


def test_the_fingerprint_knows_the_champion_and_what_evaluate_made(night: Night) -> None:
    """Another champion, another generation, other images or another candidate: another comparison."""
    champion = night.context.inputs.champion
    assert champion is not None
    first = challenge.STAGE.fingerprint(night.context)
    record = champion.record
    others = [
        None,
        replace(champion, record=record.model_copy(update={"generation": 5})),
        replace(
            champion,
            record=record.model_copy(
                update={"current": record.current.model_copy(update={"manifest_sha256": "d" * 64})}
            ),
        ),
    ]
    inputs = night.context.inputs
    found = [
        challenge.STAGE.fingerprint(replace(night.context, inputs=replace(inputs, champion=other)))
        for other in others
    ]
    changed = replace(night.context.done["evaluate"], fingerprint="0" * 32)
    done = {**night.context.done, "evaluate": changed}
    found.append(challenge.STAGE.fingerprint(replace(night.context, done=done)))
    assert len({first, *found}) == 5
    moved = replace(champion, folder=night.root, etag="another")
    elsewhere = replace(night.context, inputs=replace(inputs, champion=moved))
    assert challenge.STAGE.fingerprint(elsewhere) == first


def test_a_job_that_does_not_promote_has_no_decision(night: Night) -> None:
    """Nor the stage; one that does has it after all others."""
    assert challenge.load(night.context) is None
    night.meet()
    result = StageResult("challenge", "e" * 32, night.context.folder, {}, 0.0, reused=False)
    decided = challenge.load(replace(night.context, done={**night.context.done, "challenge": result}))
    assert decided is not None
    assert decided.champion == "runs/x/old"
    plain, promoting = {"name": "x"}, {"promote": {"when": "better"}}
    tuning = {"finetune": [{"algorithm": name} for name in ("sft", "grpo", "grpo")]}
    for document, more in [
        (plain, ["evaluate"]),
        (plain | promoting, ["evaluate", "challenge"]),
        (plain | tuning | promoting, ["sft", "grpo", "grpo_2", "evaluate", "challenge"]),
    ]:
        names = [stage.name for stage in stages_of(JobSpec.model_validate(document))]
        assert names == [*(stage.name for stage in LEARNING), *more]


def _arm(name: str, dice_N: np.ndarray) -> Arm:
    zeros = np.zeros(len(dice_N))
    test = {metric: dice_N if metric == "dice" else zeros for metric in METRICS}
    return Arm(name, name, None, True, None, np.array([0.8]), test, zeros.astype(np.int64), zeros)
