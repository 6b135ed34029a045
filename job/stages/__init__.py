"""The stages, in order: thin functions that load artifacts, call a subject and write artifacts."""

from job.spec.job import JobSpec
from job.stages import audit, challenge, evaluate, finetune, pull, reward, table, weights
from job.stages.stage import Stage

LEARNING: tuple[Stage, ...] = (pull.STAGE, table.STAGE, reward.STAGE, audit.STAGE, finetune.STAGE)
"""Those that need no test image."""


def stages_of(spec: JobSpec) -> tuple[Stage, ...]:
    """Return the stages of a job, in order, but for publish, which is never taken over.

    Each phase of weights is a stage, and so is a promotion.
    """
    promoting = (challenge.STAGE,) if spec.promote.when == "better" else ()
    return (*LEARNING, *weights.stages(spec), evaluate.STAGE, *promoting)
