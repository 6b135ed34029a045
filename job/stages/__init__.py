"""The stages, in order: thin functions that load artifacts, call a subject and write artifacts."""

from job.spec.job import JobSpec
from job.stages import audit, challenge, evaluate, finetune, pull, reward, table, weights
from job.stages.stage import Stage

LEARNING: tuple[Stage, ...] = (pull.STAGE, table.STAGE, reward.STAGE, audit.STAGE, finetune.STAGE)
"""Those that need no test image."""


def stages_of(spec: JobSpec) -> tuple[Stage, ...]:
    """Return the stages of a job, in order, but for publish, which is never taken over.

    Phases of weights bring a stage, and so does a promotion.
    """
    tuning = (weights.STAGE,) if spec.weight_phases else ()
    promoting = (challenge.STAGE,) if spec.promote.when == "better" else ()
    return (*LEARNING, *tuning, evaluate.STAGE, *promoting)
