import re

import pytest

from job.publish.training_info import FoldSummary, PhaseSummary, TrainingInfo
from job.report.html import render_html, text
from job.report.markdown import render_markdown
from job.report.numbers import MISSING
from job.report.summary import answer_table, learned
from job.report.weights import ENDED, course_table, phase_curves, phases_sentence, phases_table
from tests.report.factory import make_info

CURVE = [{"step": 0.0, "gold": 0.5, "proxy": 0.6}, {"step": 50.0, "gold": 0.7, "proxy": 0.8}]


def phase(name: str = "sft", **more: object) -> PhaseSummary:
    facts = {
        "name": name, "algorithm": name.partition("_")[0], "prompt": "vessels", "key": "0" * 64, "steps": 50,
        "best_step": 50, "ended": "steps", "start_dice": 0.5, "best_dice": 0.7, "curve": CURVE, "facts": {},
    }  # fmt: skip
    return PhaseSummary.model_validate(facts | more)


def run_of(*phases: PhaseSummary, ships: str = "noop") -> TrainingInfo:
    """A run with these phases."""
    info = make_info()
    verdict = info.results.verdict.model_copy(update={"ships": ships})
    results = info.results.model_copy(update={"verdict": verdict})
    return info.model_copy(update={"weights": list(phases), "results": results})


def fold(number: int, *phases: PhaseSummary, ships: str = "noop", verdict: str = "improved") -> FoldSummary:
    return FoldSummary(
        fold=number, run=f"folds/{number}", patients=[f"p{number}"], setting="", ships=ships,
        verdict=verdict, validation_dice=0.7, dice_before=0.5, dice_after=0.7, weights=list(phases),
    )  # fmt: skip


def run_of_folds(*folds: FoldSummary) -> TrainingInfo:
    """A run of folds whose joined ladder has a rung for `sft`: PPO's, by another name."""
    info = make_info(n_images=29, seed=1)
    rows = [
        row.model_copy(update={"candidate": "sft"}) if row.candidate == "ppo" else row
        for row in info.results.ladder
    ]
    results = info.results.model_copy(update={"ladder": rows})
    return info.model_copy(update={"folds": list(folds), "results": results})


def test_phases_stand_one_below_the_other() -> None:
    """With what each gained on validation; the one that ships is marked."""
    table = phases_table(run_of(phase(), phase("grpo", best_step=0, best_dice=0.5), ships="sft"))
    assert table is not None
    assert table.rows[0].cells[3:] == ("step 50", "0.500", "0.700", "+0.200")
    assert table.rows[1].cells[3:] == ("its start", "0.500", "0.500", "±0.000")
    assert [row.tag for row in table.rows] == ["ships", ""]
    assert phases_table(run_of()) is None


def test_a_reward_that_was_played_is_named() -> None:
    """Before anybody looks at the curves."""
    ends = {
        "reward_hacking": "GRPO on the weights ended with the reward rising while true Dice fell",
        "overfitting": "GRPO on the weights ended with the reward of its samples rising on training images",
    }
    for ended, words in ends.items():
        info = run_of(phase(), phase("grpo", ended=ended))
        assert words in phases_sentence(info)
        assert "stopped" not in phases_sentence(info)  # all its steps may have been taken
        for report in (render_markdown(info), render_html(info, {})):
            assert words in report
            assert ENDED[ended] in report
    assert "ended" not in phases_sentence(run_of(phase()))
    assert phases_sentence(run_of()) == ""


def test_a_gain_that_is_no_doing_of_a_phase_is_told() -> None:
    """Where it kept its start, its row of the ladder is that of the phase before it."""
    kept = phase("grpo", best_step=0, best_dice=0.7)
    told = "GRPO on the weights kept its start: its weights, and what they gain, are those that were there"
    assert told in phases_sentence(run_of(phase(), kept))
    both = phases_sentence(run_of(phase(best_step=0), kept))
    assert "Supervised fine-tuning and GRPO on the weights kept their starts: their weights" in both
    assert "kept its start:" not in phases_sentence(run_of(phase()))


def test_a_phase_that_diverged_is_told_with_what_to_do() -> None:
    """When, what was not finite, and that its best step is what came of it."""
    facts = {
        "diverged": "after 7 of 12 steps: the loss is infinite",
        "advice": "lower finetune[1].learning_rate",
    }
    info = run_of(phase(), phase("grpo", ended="diverged", facts=facts))
    told = (
        "GRPO on the weights diverged after 7 of 12 steps: the loss is infinite. What was best before that"
        " was restored; lower finetune[1].learning_rate."
    )
    assert told in phases_sentence(info)
    for report in (render_markdown(info), render_html(info, {})):
        assert "diverged after 7 of 12 steps" in report
        assert ENDED["diverged"] in report


def test_true_dice_is_drawn_beside_what_is_maximised() -> None:
    """On one scale, with the step that was kept marked; a phase without looks has no chart."""
    charts = phase_curves(run_of(phase(), phase("grpo", curve=[])))
    assert len(charts) == 1
    assert [line.name for line in charts[0].lines] == ["true Dice", "what it maximises"]
    assert charts[0].marker is not None
    assert "step 50 was kept" in charts[0].note


def test_the_course_is_told_in_figures_too() -> None:
    """Teachers, and both figures at the start, at the kept step and at the end; Markdown draws no curves."""
    curve = [*CURVE, {"step": 100.0, "gold": 0.6, "proxy": 0.9}]
    taught = {"terms": {"dice": 0.5, "cldice": 0.5}, "labelled": 8, "unlabelled": 20, "networks": 3}
    without_proxy = [{"step": row["step"], "gold": row["gold"]} for row in CURVE]
    info = run_of(
        phase(curve=without_proxy, facts={"labelled": 1}),
        phase("grpo", curve=curve, facts=taught, ended="reward_hacking"),
        phase("grpo_2", curve=[], best_step=0),
        phase("grpo_3", curve=[], facts=taught | {"terms": {}, "unlabelled_share": 1.0}),
    )
    table = course_table(info)
    assert table is not None
    assert [row.cells[1:] for row in table.rows] == [
        ("masks of 1 labelled image", "0.500 → 0.700 → 0.700", "–"),
        (
            "0.5 × dice + 0.5 × cldice on 8 labelled images, 3 reward networks on 20 unlabelled images",
            "0.500 → 0.700 → 0.600",
            "0.600 → 0.800 → 0.900",
        ),
        ("–", "–", "–"),
        (
            "3 reward networks on 20 unlabelled images, 8 labelled images for teaching the networks alone",
            "–",
            "–",
        ),
    ]
    for report in (render_markdown(info), render_html(info, {})):
        assert "3 reward networks on 20 unlabelled images" in report
        assert "0.600 → 0.800 → 0.900" in report
        assert "its prompt and threshold may be others" in report
    assert course_table(run_of()) is None


def test_dice_that_is_given_up_is_told() -> None:
    """Which phase keeps what for which terms, in words, in the table and as a curve."""
    worth = {"dice": 0.5, "cldice": 0.5}
    slack = {"labelled": 8, "terms": worth, "dice_slack": 0.01, "worth": worth}
    curve = [
        {"step": step, "gold": gold, "proxy": 0.6, "worth": terms}
        for step, gold, terms in [(0.0, 0.7, 0.5), (50.0, 0.695, 0.625), (100.0, 0.6, 0.65)]
    ]
    loose = phase("grpo", facts=slack, curve=curve, start_dice=0.7, best_dice=0.695)
    info = run_of(phase(), loose)
    told = phases_sentence(info)
    assert (
        "GRPO on the weights keeps the step of highest 0.5 × dice + 0.5 × cldice there, its start among them,"
        " where Dice is at most 0.01 below its start's. Every other phase keeps the step that was best there"
    ) in told
    assert "other phase" not in phases_sentence(run_of(loose))
    assert "Each phase keeps the step that was best there" in phases_sentence(run_of(phase()))
    table = course_table(info)
    assert table is not None
    assert table.head[4] == "Its terms on validation: start → kept → end"
    assert [row.cells[4] for row in table.rows] == ["–", "0.500 → 0.625 → 0.650"]
    chart = phase_curves(info)[1]
    assert chart.lines[2].name == "its terms, validation images"
    assert chart.note == "all steps taken; step 50 was kept for 0.625 of its terms, with Dice 0.695"
    for report in (render_markdown(info), render_html(info, {})):
        assert "0.500 → 0.625 → 0.650" in report
        assert "below its start" in report


@pytest.mark.parametrize("ships", ["noop", "sft"])
def test_what_would_ship_is_said_where_nothing_does(ships: str) -> None:
    """The action goes with a phase that ships; that one does is not said."""
    told = phases_sentence(run_of(phase(), ships=ships))
    assert "A phase that ships does so with the action that is best on validation under its weights" in told
    assert "What ships is" not in told


def test_a_job_without_a_policy_has_no_section_for_it() -> None:
    """Weights can be all that learns; a policy that a check skipped keeps its section."""
    info = run_of(phase())
    alone = info.model_copy(update={"spec": info.spec | {"finetune": [{"algorithm": "sft"}]}})
    assert "Policy training" not in render_html(alone, {})
    assert "#curves" not in render_html(alone, {})
    beside = [{"algorithm": "sft"}, {"algorithm": "ppo"}]
    page = render_html(info.model_copy(update={"spec": info.spec | {"finetune": beside}}), {})
    assert "Policy training" in page
    assert 'href="#curves"' in page


def test_folds_stand_phase_by_phase_below_what_all_of_them_show() -> None:
    """The joined ladder judges against today; each fold has its row, its chart, and its own that ships."""
    info = run_of_folds(
        fold(1, phase(), phase("grpo"), ships="sft"), fold(2, phase(ended="reward_hacking"), phase("grpo"))
    )
    row = next(row for row in info.results.ladder if row.candidate == "sft")
    told = phases_sentence(info)
    gained = f"Supervised fine-tuning +{row.vs_noop.mean:.3f} Dice (interval +{row.vs_noop.low:.3f} to "
    assert told.startswith(f"Over all folds, against today on test images: {gained}")
    assert "29 patients, 29 images), better." in told
    assert "Supervised fine-tuning, fold 2 ended with" in told
    table = phases_table(info)
    assert table is not None
    assert [one.cells[0].replace("Supervised fine-tuning", "SFT") for one in table.rows] == [
        "SFT, fold 1", "SFT, fold 2", "GRPO on the weights, fold 1", "GRPO on the weights, fold 2",
    ]  # fmt: skip
    assert [one.is_marked for one in table.rows] == [True, False, False, False]
    assert [chart.title for chart in phase_curves(info)] == [one.cells[0] for one in table.rows]
    assert [one.name for one in learned(info)] == ["Supervised fine-tuning"]
    for report in (render_markdown(info), render_html(info, {})):
        assert "GRPO on the weights, fold 2" in report


def test_what_a_failed_check_skipped_is_told_where_one_looks() -> None:
    """Beside the verdict and where the weights would be; with folds the invalid ones are named."""
    skipped = {"skipped": ["ppo", "sft"]}
    told = "PPO policy, Supervised fine-tuning: not trained, because a validity check failed"
    info = make_info("invalid").model_copy(update=skipped)
    assert dict(answer_table(info))["Skipped"] == told
    assert f"\n## Weights\n\n{told}.\n" in render_markdown(info)
    page = render_html(info, {})
    assert page.index(told) < page.index("The ladder") < page.index(f"<p>{told}.</p>")
    assert 'href="#weights"' in page
    folds = run_of_folds(fold(1, phase()), fold(2, verdict="invalid"), fold(3, verdict="invalid"))
    assert phases_sentence(folds.model_copy(update=skipped)).endswith(
        "PPO policy, Supervised fine-tuning: not trained in folds 2, 3, because a validity check failed."
    )
    policy = make_info("invalid").model_copy(update={"skipped": ["ppo"]})
    assert "## Weights" not in render_markdown(policy)
    assert "Skipped" not in dict(answer_table(make_info()))


def test_every_line_of_a_chart_has_a_colour_of_its_own() -> None:
    """The phase with most of them: true Dice, what is maximised, its two parts, and its terms."""
    parts = [row | {"proxy_labelled": 0.5, "proxy_unlabelled": 0.7, "worth": 0.6} for row in CURVE]
    (chart,) = phase_curves(run_of(phase("grpo", curve=parts)))
    style = text("report.css")
    drawn = [re.search(rf"\.line\.s{n} {{ stroke: (\S+);", style) for n in range(2, len(chart.lines) + 1)]
    assert len(chart.lines) == 5
    assert chart.note.endswith("what rounds of the networks alone would move is taken out")
    colours = [found[1] for found in drawn if found]
    assert len(set(colours)) == 4
    assert "var(--accent)" not in colours
    keys = [f".keys i.s{n + 2} {{ background: {colour}; }}" for n, colour in enumerate(colours)]
    assert [key for key in keys if key not in style] == []


def test_the_end_of_what_diverged_was_not_seen() -> None:
    """Its start and what was kept have figures, its end has none."""
    facts = {"diverged": "after 7 of 12 steps: the loss is infinite", "advice": "lower it"}
    shown = course_table(run_of(phase("grpo", ended="diverged", facts=facts)))
    assert shown is not None
    (row,) = shown.rows
    assert row.cells[2].endswith(f"→ {MISSING}")


def test_phases_that_diverged_alike_are_told_in_one_sentence() -> None:
    """As those of folds do."""
    facts = {"diverged": "after 7 of 12 steps: the loss is infinite", "advice": "lower it"}
    info = run_of(*(phase(name, ended="diverged", facts=facts) for name in ("grpo", "grpo_2")))
    assert phases_sentence(info).count("lower it") == 1


def test_a_phase_that_went_too_far_or_down_is_told_with_figures() -> None:
    """How far, and how low, and which field decides."""
    too_far = phase("grpo", ended="kl", facts={"kl": 0.1034, "kl_budget": 0.02})
    assert "ended 0.103 nats a pixel from its start, beyond its kl_budget of 0.02" in phases_sentence(
        run_of(too_far)
    )
    down = phase("sft", facts={"advice": "lower finetune[0].learning_rate"})
    told = phases_sentence(run_of(down))
    assert "found no step better than its start, and Dice fell to" in told
    assert told.count("lower finetune[0].learning_rate") == 1
