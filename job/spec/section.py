"""The base of every section of a spec."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

RULE = "rule"


class Section(BaseModel):
    """Strict, frozen, and closed to unknown keys; every field has a default and a description."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def broken_rule(message: str, *at: str | int) -> PydanticCustomError:
    """Return the error of a rule between fields, for a validator to raise.

    `at` leads from the section to the value that breaks the rule, so that messages can point at it.
    """
    return PydanticCustomError(RULE, "{message}", {"message": message, "at": at})


def _check_place(uri: str) -> str:
    if any(ord(character) < 32 for character in uri):
        raise broken_rule("holds a control character, which no place can have in its name")
    return uri


Uri = Annotated[str, Field(min_length=1), AfterValidator(_check_place)]
