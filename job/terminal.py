"""How events read on a terminal: sentences for what a person waits for, names and figures for the rest."""

from collections.abc import Callable, Mapping
from typing import Any

Event = Mapping[str, Any]

SILENT = frozenset(
    {"progress", "finetune.iteration", "reward.epoch", "stage.started", "segmenter.loaded", "store.uploaded"}
)
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


def _in_fold(event: Event) -> str:
    return f" (fold {event['fold']})" if "fold" in event else ""


def _check(event: Event) -> str:
    mark = {"passed": "passed", "failed": "FAILED", "unmeasured": "not measured"}[event["outcome"]]
    advice = f" ({event['advice']})" if event["advice"] else ""
    return f"check {event['name']} {mark}: {event['finding']}{advice}"


def _store(event: Event) -> str:
    lacks = "" if event["conditional_writes"] else "; it ignores conditional writes"
    return f"{event['uri']}: can be read and written ({event['seconds']:.1f} s){lacks}"


def _fetched(event: Event) -> str:
    n, there = event["downloaded_files"], _amount(event["files"], event["bytes"])
    if not n:
        return f"{event['uri']}: {there}, all of it on this disk already"
    downloaded = "" if n == event["files"] else f", {_amount(n, event['downloaded_bytes'])} downloaded"
    return f"{event['uri']}: {there}{downloaded}"


def _restored(event: Event) -> str:
    return f"{event['what']}: {_amount(event['files'], event['bytes'])} of earlier work taken over"


def _lease(event: Event) -> str:
    after = ", taken over from one that went silent" if event["taken_over"] else ""
    return f"attempt {event['attempt']}{after}"


def _promoted(event: Event) -> str:
    before = f", after {event['previous']}" if event["previous"] else ""
    champion = f"new champion: {event['run']}, generation {event['generation']}{before}"
    return f"{champion}\n         {event['model_uri']}"


def _amount(files: int, n_bytes: int) -> str:
    return f"{files:,} {'file' if files == 1 else 'files'} ({_size(n_bytes)})"


def _size(n_bytes: float) -> str:
    """Return a size in decimal units, as stores count: `1.2 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" or n_bytes >= 9.95 else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} TB"


def _counts(event: Event) -> str:
    images = ", ".join(f"{count} {split}" for split, count in event["images"].items() if count)
    return f"images: {images}; patients: {sum(event['patients'].values())}"


def _bad_image(event: Event) -> str:
    if "file" in event:
        return f"left out: {event['file']}: {event['what']}"
    return f"{event['dataset']}: {event['images']} of {event['of']} images cannot be used and are left out"


def _candidate(event: Event) -> str:
    arrow = "  <- ships" if event["ships"] else ""
    scores = f"Dice {event['validation_dice']:.3f} on validation, {event['test_dice']:.3f} on test"
    return f"  {event['candidate']:24}{scores}{arrow}"


SENTENCES: Mapping[str, Callable[[Event], str]] = {
    "job.warning": lambda e: f"warning{_in_fold(e)}: {e['message']}",
    "job.started": lambda e: (
        f"{e['name']} {e['run_id']} on {e['device']} ({e['device_name']}, {e['threads']} threads)"
        f"\n         {e['run_uri']}"
    ),
    "job.already_done": lambda e: f"finished {e['finished_at']}, inputs unchanged: nothing to do",
    "job.nothing_new": lambda e: f"nothing new since {e['last_run']}: nothing to do ({e['seconds']:.1f} s)",
    "job.finished": lambda e: f"{e['verdict']}, exit code {e['exit_code']}: {e['run_uri']}",
    "job.failed": lambda e: f"failed, exit code {e['exit_code']}",
    "stage.reused": lambda e: f"{e['stage']}: finished before, taken over",
    "stage.finished": lambda e: f"{e['stage']}: done in {e['seconds']:.1f} s",
    "data.summary": _counts,
    "data.bad_image": _bad_image,
    "table.summary": lambda e: (
        f"{e['images']} images x {e['actions']} actions;"
        f" {e['computed']} segmentations computed, {e['cached']} found in the cache"
    ),
    "reward.summary": lambda e: (
        f"reward network on validation: mean error {e['mae']:.3f} Dice,"
        f" rank correlation {e['spearman']:.2f}, regret {e['regret']:.4f}"
    ),
    "check.result": _check,
    "store.checked": _store,
    "store.retrying": lambda e: f"the store fails, {e['what']} is brought later: {e['message']}",
    "store.damaged": lambda e: f"{e['key']} in the store is damaged and is made again: {e['message']}",
    "store.restored": _restored,
    "pull.fetched": _fetched,
    "lease.acquired": _lease,
    "run.published": lambda e: (
        f"published, {_amount(e['files'], e['bytes'])}, attempt {e['attempt']}: {e['run_uri']}"
    ),
    "run.removed": lambda e: f"an old run was removed: {e['run_uri']}",
    "champion.compared": lambda e: f"champion: {e['decision']}. {e['sentence']}",
    "champion.promoted": _promoted,
    "champion.race_lost": lambda e: f"another job changed the champion meanwhile, it stays: {e['model_uri']}",
    "evaluate.candidate": _candidate,
    "evaluate.verdict": lambda e: f"{e['sentence']}\n         {e['learning']}",
}
