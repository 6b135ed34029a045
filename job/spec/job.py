"""The spec: the JSON document that describes a job."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from job.spec import sweep as sweeps
from job.spec.actions import ActionsSpec
from job.spec.checks import ChecksSpec
from job.spec.data import DataSpec, FoldSplit
from job.spec.finetune import FinetuneSpec, OneOrSeveral, WeightPhase
from job.spec.report_section import ReportSpec
from job.spec.reward import RewardSpec, TableSpec
from job.spec.runtime import CacheSpec, EvaluateSpec, OutputSpec, PromoteSpec, RuntimeSpec
from job.spec.section import Section, broken_rule
from job.spec.segmenter import PrecomputedSpec, PromptableUNetSpec, SegmenterSpec
from job.spec.showing import shorten

NOT_IN_RUN_ID = ("runtime", "output", "cache")


class JobSpec(Section):
    """A job: data, a segmenter, the actions to choose from, what is rewarded, how it learns and is judged."""

    schema_: str | None = Field(None, alias="$schema")
    """Where editors find the schema; read by nothing here."""
    version: Literal[1] = 1
    """Version of this format."""
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Names the run folder: lower-case letters, digits, dots, dashes, underscores."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Of everything random."""
    data: DataSpec = DataSpec()
    """Where the images are."""
    segmenter: SegmenterSpec = PromptableUNetSpec()
    """The model."""
    actions: ActionsSpec = ActionsSpec()
    """What there is to choose from."""
    table: TableSpec = TableSpec()
    """How the action table is computed."""
    reward: RewardSpec = RewardSpec()
    """What is rewarded."""
    checks: ChecksSpec = ChecksSpec()
    """What must hold before learning, and for what was learned to ship."""
    finetune: OneOrSeveral = FinetuneSpec()
    """What learns: a policy (`ppo`), or the segmenter's weights (`sft`, `grpo`). Several phases are a list,
    in which each one of weights goes on from the one before."""
    sweep: sweeps.Sweep = Field({})
    """Fields of `finetune` and `reward` with values to try, such as `"finetune.n_epochs": [10, 20]`: every
    combination is trained, and the one of the best validation Dice goes on."""
    evaluate: EvaluateSpec = EvaluateSpec()
    """How candidates are judged."""
    report: ReportSpec = ReportSpec()
    """What the run folder shows."""
    promote: PromoteSpec = PromoteSpec()
    """Whether what ships becomes the champion."""
    output: OutputSpec = OutputSpec()
    """Where results go."""
    cache: CacheSpec = CacheSpec()
    """What this machine keeps for the next run."""
    runtime: RuntimeSpec = RuntimeSpec()
    """How the machine is used."""

    @field_validator("version", mode="before")
    @classmethod
    def _version_is_an_integer(cls, value: object) -> object:
        # pydantic's literal 1 takes true and 1.0, which Python holds equal to it.
        if isinstance(value, bool | float):
            raise broken_rule(f"expected 1, got {str(value).lower()}")
        return value

    @field_validator("segmenter", mode="before")
    @classmethod
    def _kind_has_a_default(cls, value: object) -> object:
        if isinstance(value, dict) and "kind" not in value:
            return {"kind": "promptable_unet", **value}
        return value

    @field_validator("finetune", mode="before")
    @classmethod
    def _algorithm_has_a_default(cls, value: object) -> object:
        if isinstance(value, dict) and "algorithm" not in value:
            return {"algorithm": "ppo", **value}
        return value

    @property
    def policy(self) -> FinetuneSpec:
        """How a policy learns, or is only compared: the defaults where `finetune` has no such phase."""
        return next((one for one in self._phases if isinstance(one, FinetuneSpec)), FinetuneSpec())

    @property
    def has_policy(self) -> bool:
        """Whether a policy is to be trained, or judged."""
        return any(isinstance(phase, FinetuneSpec) for phase in self._phases)

    @property
    def weight_phases(self) -> list[tuple[str, WeightPhase]]:
        """The phases that change the segmenter's weights, each with a name: `sft`, `grpo`, `grpo_2`."""
        named: list[tuple[str, WeightPhase]] = []
        for phase in self._phases:
            if not isinstance(phase, FinetuneSpec):
                before = sum(one.algorithm == phase.algorithm for _, one in named)
                named.append((f"{phase.algorithm}_{before + 1}" if before else phase.algorithm, phase))
        return named

    @property
    def phases(self) -> dict[str, FinetuneSpec | WeightPhase]:
        """Every phase in its order by its place in the spec: `finetune`, or of a list `finetune[0]`, ..."""
        if not isinstance(self.finetune, list):
            return {"finetune": self.finetune}
        return {f"finetune[{i}]": phase for i, phase in enumerate(self.finetune)}

    @property
    def _phases(self) -> Sequence[FinetuneSpec | WeightPhase]:
        return list(self.phases.values())

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        policies = [i for i, phase in enumerate(self._phases) if isinstance(phase, FinetuneSpec)]
        if len(policies) > 1:
            raise broken_rule("a second policy: a list has one phase of ppo at most", "finetune", policies[1])
        return self

    @model_validator(mode="after")
    def _weights_can_change(self) -> Self:
        if self.weight_phases and not isinstance(self.segmenter, PromptableUNetSpec):
            raise broken_rule(
                f"sft and grpo change the weights of segmenter.kind promptable_unet alone, not of"
                f' {self.segmenter.kind}; write {{"algorithm": "ppo"}}',
                "finetune",
            )
        for i, phase in enumerate(self._phases):
            prompt = None if isinstance(phase, FinetuneSpec) else phase.prompt
            if prompt is not None and prompt not in self.actions.prompts:
                at = ("finetune", i) if isinstance(self.finetune, list) else ("finetune",)
                raise broken_rule(
                    f"{shorten(prompt)!r} is not in actions.prompts: add it there", *at, "prompt"
                )
        return self

    @model_validator(mode="after")
    def _what_is_computed_elsewhere_cannot_be_called(self) -> Self:
        if isinstance(self.segmenter, PrecomputedSpec) and self.policy.rollout == "live":
            raise broken_rule(
                'calls the segmenter, and segmenter.kind "precomputed" has none to call; write "table"',
                "finetune",
                "rollout",
            )
        return self

    @model_validator(mode="after")
    def _sweep_fits(self) -> Self:
        if self.sweep and self.weight_phases:
            raise broken_rule("settings of ppo and reward are swept, and not beside sft or grpo", "sweep")
        if self.sweep:
            sweeps.check(self)
        return self

    @model_validator(mode="after")
    def _power_exceeds_error_rate(self) -> Self:
        error_rate = 1 - self.evaluate.confidence
        if self.checks.power <= error_rate:
            raise broken_rule(
                f"{self.checks.power:g} must exceed the error rate 1 - evaluate.confidence = {error_rate:g}",
                "checks",
                "power",
            )
        return self

    @model_validator(mode="after")
    def _folds_stay_at_home(self) -> Self:
        if isinstance(self.data.split, FoldSplit) and self.evaluate.datasets:
            raise broken_rule(
                "cannot be judged by folds, each of which ships something else; judge them without folds",
                "evaluate",
                "datasets",
            )
        return self

    @model_validator(mode="after")
    def _folds_ship_nothing(self) -> Self:
        if isinstance(self.data.split, FoldSplit) and self.promote.when != "never":
            raise broken_rule("folds measure a procedure and ship nothing to promote", "promote", "when")
        return self

    @model_validator(mode="after")
    def _output_is_no_input(self) -> Self:
        places = {"data.uri": self.data.uri, "segmenter.uri": self.segmenter.uri}
        if self.data.unlabelled_uri is not None:
            places["data.unlabelled_uri"] = self.data.unlabelled_uri
        for i, dataset in enumerate(self.evaluate.datasets):
            places[f"evaluate.datasets[{i}].uri"] = dataset.uri
        for name, uri in places.items():
            if f"{self.output.uri.rstrip('/')}/".startswith(f"{uri.rstrip('/')}/"):
                raise broken_rule(f"lies in {name}: results would be taken for inputs", "output", "uri")
        return self

    def identity(self) -> dict[str, Any]:
        """Return the part of the spec that says what is computed: the basis of run_id."""
        return self.model_dump(mode="json", exclude={"schema_", *NOT_IN_RUN_ID})
