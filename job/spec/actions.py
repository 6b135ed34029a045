"""`actions`: the (prompt, post-processing) pairs to choose from."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from job.spec.section import Section, broken_rule


class PostProcessSpec(Section):
    """Probabilities to mask: threshold or hysteresis, closing, removal of small components."""

    threshold: float = Field(0.5, gt=0.0, lt=1.0)
    """Pixels of a probability above it are foreground."""
    low: float | None = Field(None, gt=0.0, lt=1.0)
    """Hysteresis: pixels above `low` that touch one above `threshold` are foreground too."""
    min_area: int = Field(0, ge=0, le=1_000_000)
    """Connected components of fewer pixels are removed."""
    closing_radius: int = Field(0, ge=0, le=50)
    """Radius in pixels of the disk of a morphological closing."""

    @model_validator(mode="after")
    def _low_is_below_threshold(self) -> Self:
        if self.low is not None and self.low >= self.threshold:
            raise broken_rule(f"low ({self.low}) must be below threshold ({self.threshold})", "low")
        return self


Prompt = Annotated[str, Field(min_length=1, max_length=1000)]

DEFAULT_PROMPTS = [
    "Please segment the retinal blood vessels.",
    "Segment all vessels, including the finest branches.",
    "Segment the major vessels.",
    "Segment only the thick main vessels.",
    "Segment the fine vessels.",
    "Segment the arteries and veins.",
]
DEFAULT_POSTPROCESS = [
    PostProcessSpec(),
    PostProcessSpec(threshold=0.3),
    PostProcessSpec(threshold=0.7),
    PostProcessSpec(threshold=0.85),
    PostProcessSpec(threshold=0.5, low=0.25),
    PostProcessSpec(threshold=0.8, low=0.4),
    PostProcessSpec(threshold=0.5, min_area=30, closing_radius=1),
    PostProcessSpec(threshold=0.7, min_area=60),
]


class ActionsSpec(Section):
    """Every prompt with every post-processing; the first of each list is what the user has today."""

    prompts: list[Prompt] = Field(DEFAULT_PROMPTS, min_length=1, max_length=256)
    """Prompts; the first is today's."""
    postprocess: list[PostProcessSpec] = Field(DEFAULT_POSTPROCESS, min_length=1, max_length=256)
    """Post-processing settings; the first is today's."""

    @model_validator(mode="after")
    def _no_action_twice(self) -> Self:
        lists: dict[str, Sequence[object]] = {"prompts": self.prompts, "postprocess": self.postprocess}
        for name, values in lists.items():
            for position, value in enumerate(values):
                if value in values[:position]:
                    raise broken_rule(f"repeats {name}[{values.index(value)}]; remove one", name, position)
        return self
