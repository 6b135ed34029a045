"""The stages, in order: thin functions that load artifacts, call a subject and write artifacts."""

from job.stages import audit, challenge, evaluate, finetune, pull, reward, table
from job.stages.stage import Stage

LEARNING: tuple[Stage, ...] = (pull.STAGE, table.STAGE, reward.STAGE, audit.STAGE, finetune.STAGE)
"""Those that need no test image."""
STAGES: tuple[Stage, ...] = (*LEARNING, evaluate.STAGE)
"""All but publish, which writes the run folder and is never taken over."""
PROMOTING: tuple[Stage, ...] = (*STAGES, challenge.STAGE)
"""Those of a job that promotes what is better."""
