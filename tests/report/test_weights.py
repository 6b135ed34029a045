from job.publish.training_info import PhaseSummary
from job.report.weights import phase_curves, phases_sentence, phases_table

CURVE = [{"step": 0.0, "gold": 0.5, "proxy": 0.6}, {"step": 50.0, "gold": 0.7, "proxy": 0.8}]


def phase(name: str = "sft", **more: object) -> PhaseSummary:
    facts = {
        "name": name, "algorithm": name.partition("_")[0], "prompt": "vessels", "key": "0" * 64, "steps": 50,
        "best_step": 50, "ended": "steps", "start_dice": 0.5, "best_dice": 0.7, "curve": CURVE, "facts": {},
    }  # fmt: skip
    return PhaseSummary.model_validate(facts | more)


def test_phases_stand_one_below_the_other() -> None:
    """With what each gained on validation; the one that ships is marked."""
    table = phases_table([phase(), phase("grpo", best_step=0, best_dice=0.5)], ships="sft")
    assert table is not None
    assert table.rows[0].cells[3:] == ("step 50", "0.500", "0.700", "+0.200")
    assert table.rows[1].cells[3:] == ("its start", "0.500", "0.500", "±0.000")
    assert [row.tag for row in table.rows] == ["ships", ""]
    assert phases_table([], ships="noop") is None


def test_a_reward_that_was_played_is_named() -> None:
    """Before anybody looks at the curves."""
    told = phases_sentence([phase(), phase("grpo", ended="reward_hacking")])
    assert "GRPO on the weights was stopped because the reward went on rising while true Dice fell" in told
    assert "stopped" not in phases_sentence([phase()])
    assert phases_sentence([]) == ""


def test_true_dice_is_drawn_beside_what_is_maximised() -> None:
    """On one scale, with the step that was kept marked; a phase without looks has no chart."""
    charts = phase_curves([phase(), phase("grpo", curve=[])])
    assert len(charts) == 1
    assert [line.name for line in charts[0].lines] == ["true Dice", "what it maximises"]
    assert charts[0].marker is not None
    assert "step 50 was kept" in charts[0].note
