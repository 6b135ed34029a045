"""How events read on a terminal: sentences for what a person waits for, names and figures for the rest."""

from collections.abc import Callable, Mapping
from typing import Any

Event = Mapping[str, Any]

SILENT = frozenset({"progress", "finetune.iteration", "reward.epoch", "stage.started", "segmenter.loaded"})
"""Events that bars show, or that repeat many times; the log file has them."""


def sentence(event: Event) -> str | None:
    """Return an event as a line for people, None for one that a terminal does not show."""
    name = event["event"]
    if name in SILENT and event["level"] == "info":
        return None
    say = SENTENCES.get(name)
    return say(event) if say is not None else _plainly(event)


def _plainly(event: Event) -> str:
    hidden = ("event", "level", "fingerprint")
    facts = (f"{key}: {_short(value)}" for key, value in event.items() if key not in hidden and value != "")
    return f"{event['event']}  {', '.join(facts)}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _check(event: Event) -> str:
    mark = "passed" if event["passed"] else "FAILED"
    advice = f" ({event['advice']})" if event["advice"] else ""
    return f"check {event['name']} {mark}: {event['finding']}{advice}"


def _counts(event: Event) -> str:
    images = ", ".join(f"{count} {split}" for split, count in event["images"].items() if count)
    return f"images: {images}; patients: {sum(event['patients'].values())}"


def _candidate(event: Event) -> str:
    arrow = "  <- ships" if event["ships"] else ""
    scores = f"Dice {event['validation_dice']:.3f} on validation, {event['test_dice']:.3f} on test"
    return f"  {event['candidate']:24}{scores}{arrow}"


SENTENCES: Mapping[str, Callable[[Event], str]] = {
    "job.warning": lambda e: f"warning: {e['message']}",
    "job.started": lambda e: (
        f"{e['name']} {e['run_id']} on {e['device']} ({e['device_name']}, {e['threads']} threads)"
        f"\n         {e['run_uri']}"
    ),
    "job.already_done": lambda e: f"finished {e['finished_at']}, inputs unchanged: nothing to do",
    "job.finished": lambda e: f"{e['verdict']}, exit code {e['exit_code']}: {e['run_uri']}",
    "job.failed": lambda e: f"failed, exit code {e['exit_code']}",
    "stage.reused": lambda e: f"{e['stage']}: finished before, taken over",
    "stage.finished": lambda e: f"{e['stage']}: done in {e['seconds']:.1f} s",
    "data.summary": _counts,
    "table.summary": lambda e: (
        f"{e['images']} images x {e['actions']} actions;"
        f" {e['computed']} segmentations computed, {e['cached']} found in the cache"
    ),
    "reward.summary": lambda e: (
        f"reward network on validation: mean error {e['mae']:.3f} Dice,"
        f" rank correlation {e['spearman']:.2f}, regret {e['regret']:.4f}"
    ),
    "check.result": _check,
    "evaluate.candidate": _candidate,
    "evaluate.verdict": lambda e: f"{e['sentence']}\n         {e['learning']}",
}
