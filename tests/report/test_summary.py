import io
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from job.evaluation.results import VerdictName
from job.report.numbers import signed
from job.report.summary import answer_table, experiments, ladder, learned, print_answer, what_would_decide
from tests.report.factory import make_info
from tests.report.test_weights import phase


@pytest.mark.parametrize("verdict", get_args(VerdictName))
@pytest.mark.parametrize("is_bare", [False, True])
def test_the_answer_starts_with_the_verdict(verdict: VerdictName, is_bare: bool) -> None:
    """Every verdict has an answer of labelled lines, with nothing spelled nan or None."""
    rows = answer_table(make_info(verdict, is_bare=is_bare))
    assert rows[0][0] == "Verdict"
    assert all(label and value for label, value in rows)
    text = " ".join(value for _, value in rows).lower()
    assert "nan" not in text.split()
    assert "none " not in text.replace("none were run", "")


def test_figures_of_the_answer() -> None:
    """Before, after, change, wins and losses are those of the verdict."""
    info = make_info()
    uplift, rows = info.results.verdict.vs_noop, dict(answer_table(info))
    before, after = info.results.verdict.dice_before.mean, info.results.verdict.dice_after.mean
    assert rows["Dice"] == f"{before:.3f} → {after:.3f}"
    assert rows["Change"].startswith(
        f"+{uplift.mean:.3f} Dice (interval +{uplift.low:.3f} to +{uplift.high:.3f}"
    )
    assert rows["Images"] == f"{uplift.wins} better, {uplift.ties} equal, {uplift.losses} worse"
    assert rows["Reward-network RL"].endswith("better")


def test_nothing_ships_when_the_result_is_invalid() -> None:
    """An invalid result ships nothing, whatever the ladder says, and names the failed check."""
    rows = dict(answer_table(make_info("invalid")))
    assert rows["Ships"] == "nothing"
    assert rows["Checks"].startswith("5 of 7 passed; failed: replay_identity (the no-op through")
    assert not any(row.ships for row in ladder(make_info("invalid")))


def test_what_dropped_the_policy_is_an_answer() -> None:
    """A dropped policy has a line that names the check, which is also counted among the checks."""
    rows = dict(answer_table(make_info(dropped_by=["reward_hacking"])))
    assert rows["Policy"] == "The PPO policy may not ship: reward_hacking"
    assert rows["Checks"] == ("10 of 13 passed; failed: oracle_gap, reward_hacking; not measured: stability")
    assert rows["Ships"].startswith("Ridge regression")
    assert "Policy" not in dict(answer_table(make_info()))


def test_experiments_are_judged_at_the_confidence_of_the_run() -> None:
    """p is compared with what the intervals of this very run leave out."""
    info = make_info()
    weak = [row.model_copy(update={"holm_p": row.holm_p and 0.08}) for row in info.results.ladder]
    info = info.model_copy(update={"results": info.results.model_copy(update={"ladder": weak})})
    assert {answer.judgement for answer in experiments(info)} == {"unclear"}
    wide = info.model_copy(update={"spec": {"evaluate": {"confidence": 0.9}}})
    assert experiments(wide)[-1].judgement == "better"
    assert "Holm p 0.080" in dict(answer_table(wide))["Reward-network RL"]


def test_an_inconclusive_answer_says_what_would_decide() -> None:
    """The number of patients is named; where none can be computed, that more are needed."""
    info = make_info("inconclusive")
    verdict = info.results.verdict
    assert dict(answer_table(info))["To decide"].startswith("about 64 test patients")
    assert what_would_decide(verdict.model_copy(update={"patients_needed": None})) is not None
    assert what_would_decide(make_info("improved").results.verdict) is None


def test_the_three_experiments_are_always_named() -> None:
    """The mission's experiments stand side by side, those that were not run as such."""
    assert [answer.judgement for answer in experiments(make_info(n_images=29, seed=1))] == ["better"] * 3
    bare = make_info(is_bare=True)
    assert [answer.vs_noop for answer in experiments(bare)] == [None] * 3
    assert dict(answer_table(bare))["Prompt optimisation"] == "not run"


def test_print_answer_reads_the_finished_run(tmp_path: Path) -> None:
    """The terminal's last lines say the verdict and where the report is; brackets are no styles."""
    info = make_info()
    verdict = info.results.verdict.model_copy(update={"sentence": "[red]better[/red]"})
    info = info.model_copy(update={"results": info.results.model_copy(update={"verdict": verdict})})
    (tmp_path / "training_info.json").write_text(info.model_dump_json(), encoding="utf-8")
    screen = io.StringIO()
    print_answer(Console(file=screen, width=240), tmp_path, str(tmp_path))
    assert "Improved: [red]better[/red]" in screen.getvalue()
    assert str(tmp_path / "report.html") in screen.getvalue()


def test_what_each_phase_learned_stands_beside_the_policy() -> None:
    """Against the best fixed action, in the order of the ladder; nothing that was not learned."""
    info = make_info("improved")
    assert [one.name for one in learned(info)] == ["PPO policy"]
    row = next(row for row in info.results.ladder if row.candidate == "ppo")
    tuned = row.model_copy(update={"candidate": "sft"})
    results = info.results.model_copy(update={"ladder": [*info.results.ladder, tuned]})
    assert [one.name for one in learned(info.model_copy(update={"results": results}))] == ["PPO policy"]
    with_phase = info.model_copy(update={"results": results, "weights": [phase("sft")]})
    policy, weights = learned(with_phase)
    assert (policy.name, weights.name) == ("PPO policy", "Supervised fine-tuning")
    assert (policy.mean, policy.images) == (weights.mean, weights.images)
    assert policy.mean == signed(row.vs_best_fixed.mean)
