"""Where a result comes from, as rows of (name, value): shared by both reports."""

from job.publish.training_info import TrainingInfo
from job.report.numbers import count
from job.spec.secrets import redact


def provenance(info: TrainingInfo) -> list[tuple[str, str]]:
    """Return what one needs to find, repeat and compare a run; places without user names and signatures."""
    where = info.provenance
    segmented = info.segmentations
    return [
        ("Run", f"{info.name} / {info.run_id}"),
        ("Place", redact(info.run_uri)),
        ("Started", info.started_at),
        ("Finished", info.finished_at),
        ("Exit code", str(info.exit_code)),
        ("Data", redact(info.data.uri) + (f", {info.data.width} px wide" if info.data.width else "")),
        *((f"Images, {split}", images_of(info, split)) for split in info.data.images),
        *((f"Digest, {name}", digest) for name, digest in info.data.digests.items()),
        ("Segmenter", f"{info.segmenter.get('kind', '')} {redact(info.segmenter.get('uri', ''))}".strip()),
        ("Segmenter key", info.segmenter.get("key", "")),
        ("Segmentations", ", ".join(f"{n:,} {how.replace('_', ' ')}" for how, n in segmented.items())),
        *_agreement(info),
        ("Policy checkpoints", count(len(info.finetune.checkpoints), "file")),
        ("Device", f"{where.device}, {count(where.threads, 'CPU thread')}"),
        *(("Also computed on", f"{machine} ({', '.join(stages)})") for machine, stages in _elsewhere(info)),
        ("Platform", where.platform),
        ("Commit", where.git_commit or "not from a checkout"),
        ("Results digest", info.results_digest),
    ]


def _agreement(info: TrainingInfo) -> list[tuple[str, str]]:
    found = info.agreement
    if found is None:
        return []
    what = f"{found['equal_pairs']:.0f} of {found['pairs']:.0f} masks equal, mean IoU {found['mean_iou']:.4f}"
    return [("Agreement with predict_forward", f"{what}, least {found['min_iou']:.4f}")]


def _elsewhere(info: TrainingInfo) -> list[tuple[str, list[str]]]:
    """Return other machines than the last attempt's, each with the stages that it worked on."""
    here = f"{info.provenance.device}, threads: {info.provenance.threads}"
    others = dict.fromkeys(machine for stage in info.stages for machine in stage.machines if machine != here)
    return [(one, [stage.name for stage in info.stages if one in stage.machines]) for one in others]


def images_of(info: TrainingInfo, split: str) -> str:
    """Say how many images, of how many patients, a split holds."""
    images = count(info.data.images[split], "image")
    patients = info.data.patients.get(split)
    return images if patients is None else f"{images} of {count(patients, 'patient')}"
