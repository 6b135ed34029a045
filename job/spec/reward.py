"""`table` and `reward`: what is scored, and by what."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from job.spec.section import Section, Uri, broken_rule

TrueTermName = Literal["dice", "iou", "recall", "precision", "cldice", "betti", "foreground"]
TermName = Literal["reward_net", TrueTermName]
Weight = Annotated[float, Field(ge=-100.0, le=100.0)]


class TableSpec(Section):
    """How the action table is computed; nothing here changes what it says."""

    keep_logits: Literal["all", "none"] = "all"
    """`all` keeps every logit tensor in the cache, so that no image is segmented twice."""
    memory_mb: int = Field(512, ge=16, le=1_000_000)
    """Budget in MiB for masks in memory while scoring."""


class RewardNetworkSpec(Section):
    """The network that judges a mask without the truth."""

    uri: Uri | None = None
    """An existing network: a `.safetensors` file, a run folder, or a run's name folder (its newest run)."""
    init: Literal["embedded", "scratch"] = "embedded"
    """Where training starts when no `uri` is given."""
    epochs: int = Field(3, ge=0, le=10_000)
    """Passes over the training masks; 0 trains nothing."""
    batch_size: int = Field(64, ge=1, le=65_536)
    """Masks a gradient step."""
    learning_rate: float = Field(1e-3, gt=0.0, le=1.0)
    """Adam's step size."""
    folds: int = Field(2, ge=2, le=20)
    """Cross-fitting: training images are scored by a network trained on the other folds."""


class RewardSpec(Section):
    """A weighted sum of named terms."""

    terms: dict[TermName, Weight] = Field({"reward_net": 0.5, "dice": 0.5}, min_length=1)
    """Weight of each term; a negative one rewards masks that have less of it."""
    normalise: bool = False
    """Divide each term by its within-image deviation on the training images, so that weights compare."""
    network: RewardNetworkSpec = RewardNetworkSpec()
    """The reward network."""

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if not any(self.terms.values()):
            raise broken_rule("every weight is 0: the reward would be constant", "terms")
        return self

    @property
    def true_terms(self) -> dict[str, float]:
        """What rewards masks of labelled images in a phase of `grpo` that names no terms itself.

        Dice where the network alone is rewarded.
        """
        true = {str(term): weight for term, weight in self.terms.items() if weight and term != "reward_net"}
        return true or {"dice": 1.0}


def on_one_scale(terms: Mapping[Any, float]) -> dict[str, float]:
    """Return the weights of terms so that they add up to 1, signs aside; those of 0 are left out.

    What they reward is then on one scale with what networks say.
    """
    total = sum(map(abs, terms.values()))
    return {str(term): weight / total for term, weight in terms.items() if weight}
