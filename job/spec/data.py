"""`data`: where the images are, at what width they are worked on, and which side each patient is on."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from job.spec.section import Section, Uri, broken_rule

Share = Annotated[float, Field(ge=0.0, lt=1.0)]


def _check_shares(validation: float, test: float) -> None:
    if validation + test >= 1.0:
        raise broken_rule(f"validation + test = {validation + test:g} leaves no patient to train on", "test")


class AutoSplit(Section):
    """The dataset's own `split` column where every annotated image has one, else by a hash of the patient."""

    # In a spec the union needs its tag, which a default would make optional in the schema.
    model_config = ConfigDict(json_schema_extra={"required": ["kind"]})

    kind: Literal["auto"] = "auto"
    validation: Share = 0.2
    """Share of patients held out for choosing between candidates, where the hash decides."""
    test: Share = 0.3
    """Share of patients held out for the verdict, where the hash decides."""

    @model_validator(mode="after")
    def _some_patients_train(self) -> Self:
        _check_shares(self.validation, self.test)
        return self


class ColumnSplit(Section):
    """The `split` column of annotations.json."""

    kind: Literal["column"]


class HashSplit(Section):
    """By a hash of the patient, so that an image never changes sides as the data grow."""

    kind: Literal["hash"]
    validation: Share = 0.2
    """Share of patients held out for choosing between candidates."""
    test: Share = 0.3
    """Share of patients held out for the verdict."""

    @model_validator(mode="after")
    def _some_patients_train(self) -> Self:
        _check_shares(self.validation, self.test)
        return self


class PatientSplit(Section):
    """Named patients on each side; patients that no side names are left out, and the log says how many."""

    kind: Literal["patients"]
    train: list[str] = Field(min_length=1)
    """Patients whose images are learned from."""
    validation: list[str] = Field(min_length=1)
    """Patients whose images decide between candidates."""
    test: list[str] = Field(min_length=1)
    """Patients whose images are scored once, by evaluate."""

    @model_validator(mode="after")
    def _no_patient_twice(self) -> Self:
        seen: dict[str, str] = {}
        for side in ("train", "validation", "test"):
            for position, patient in enumerate(getattr(self, side)):
                if patient in seen:
                    raise broken_rule(
                        f"this patient is in {seen[patient]} already; remove one", side, position
                    )
                seen[patient] = side
        return self


class FoldSplit(Section):
    """Every patient is tested once: k trainings, each tested on one fold and validated on the next."""

    kind: Literal["folds"]
    k: int = Field(5, ge=3, le=100)
    """Folds of about equal numbers of images that the patients are dealt into, by the spec's seed."""


Split = Annotated[AutoSplit | ColumnSplit | HashSplit | PatientSplit | FoldSplit, Field(discriminator="kind")]


class SyntheticSpec(Section):
    """How many synthetic images to make, and how they are annotated; read with a `synthetic:` uri only."""

    train: int = Field(20, ge=2, le=100_000)
    """Training images."""
    validation: int = Field(20, ge=2, le=100_000)
    """Validation images."""
    test: int = Field(40, ge=2, le=100_000)
    """Test images."""
    unlabelled: int = Field(0, ge=0, le=100_000)
    """Images without a mask, rewarded by the reward network alone."""
    size: int = Field(128, ge=64, le=1024, multiple_of=16)
    """Height and width in pixels."""
    seed: int = Field(0, ge=0, lt=1_000_000_000)
    """Which images are made; the embedded checkpoints were trained on seeds of 1,000,000,000 and above."""
    annotation: Literal["by_clarity", "all"] = "by_clarity"
    """`by_clarity`: hazy images have only their major vessels annotated, so that the best prompt depends on
    the image; `all`: every vessel of every image is."""


class DataSpec(Section):
    """Where the images are."""

    uri: Uri = "synthetic:fundus"
    """A dataset folder (path, `file://`) or `synthetic:fundus`."""
    unlabelled_uri: Uri | None = None
    """A folder of images without masks, rewarded by the reward network alone."""
    width: int | None = Field(None, ge=32, le=8192)
    """Width in pixels that images and masks are resized to (aspect kept); null keeps them as they are."""
    split: Split = AutoSplit()
    """Which side each patient is on."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """What a file that cannot be decoded, is too large, or does not fit its image means: `fail` ends the job
    and names them, `skip` leaves those images out, and the report lists them."""
    max_bad_share: float = Field(0.05, ge=0.0, le=0.5)
    """Share of a data set's images that `skip` may leave out; with more the job ends."""
    synthetic: SyntheticSpec = SyntheticSpec()
    """What `synthetic:fundus` makes."""

    @model_validator(mode="after")
    def _folds_have_patients(self) -> Self:
        if isinstance(self.split, FoldSplit) and self.uri.startswith("synthetic:"):
            what = "folds need a dataset folder (data.uri): synthetic images come with their split"
            raise broken_rule(what, "split", "kind")
        return self
