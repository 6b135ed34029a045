from typing import Annotated, Literal

import pytest
from pydantic import Discriminator, Field, Tag

from job.spec.fields import default_container, known_paths, locate
from job.spec.job import JobSpec
from job.spec.section import Section


class Cat(Section):
    """A choice."""

    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(Section):
    """Another choice."""

    kind: Literal["dog"]
    toys: list[Cat] = Field([])


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class House(Section):
    """Choices in a field, in a list, and of one or a list, as phases of `finetune` are."""

    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = Field([])
    maybe: Cat | None = None
    guests: Annotated[
        Annotated[Pet, Tag("one")] | Annotated[list[Pet], Tag("many")],
        Discriminator(lambda value: "many" if isinstance(value, list) else "one"),
    ] = Cat()


@pytest.mark.parametrize(
    ("loc", "path", "keys"),
    [
        (("pet", "cat", "lives"), ("pet", "lives"), ("kind", "lives")),
        (("pets", 2, "dog", "toys", 0, "lives"), ("pets", 2, "toys", 0, "lives"), ("kind", "lives")),
        (("pets", 2, "dog", "cat"), ("pets", 2, "cat"), ("kind", "toys")),
        (("maybe", "lives"), ("maybe", "lives"), ("kind", "lives")),
        (("guests", "one", "dog", "toys"), ("guests", "toys"), ("kind", "toys")),
        (("guests", "many", 1, "cat", "lives"), ("guests", 1, "lives"), ("kind", "lives")),
        (("nope", "cat", 1), ("nope", "cat", 1), ()),
        (("pet",), ("pet",), ("pet", "pets", "maybe", "guests")),
        ((), (), ()),
    ],
)
def test_union_tags_leave_the_path_but_choose_the_keys(
    loc: tuple[str | int, ...], path: tuple[str | int, ...], keys: tuple[str, ...]
) -> None:
    """pydantic puts the tag of a chosen section into its locations, where the JSON has nothing."""
    located = locate(House, loc)
    assert (located.path, located.keys) == (path, keys)


def test_a_choice_names_its_tags() -> None:
    """A message about a missing tag can say which there are."""
    assert locate(House, ("pet",)).tags == ("cat", "dog")
    assert (
        locate(House, ("guests", "one")).tags == locate(House, ("guests", "many", 0)).tags == ("cat", "dog")
    )
    assert locate(House, ("maybe",)).tags == ()


def test_a_dictionary_over_literals_knows_its_keys() -> None:
    """`reward.terms` is a dictionary, but not any key fits."""
    located = locate(JobSpec, ("reward", "terms", "dise", "[key]"))
    assert located.path == ("reward", "terms", "dise")
    assert "dice" in located.keys


def test_known_paths_reach_every_section_and_every_choice() -> None:
    """What a misplaced key may have meant lies anywhere in the spec."""
    paths = known_paths(JobSpec)
    for path in [
        ("$schema",),
        ("finetune", "net_arch", "pi"),
        ("data", "split", "train"),
        ("reward", "terms", "dice"),
    ]:
        assert path in paths
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize(
    ("path", "container"),
    [
        (("finetune",), {}),
        (("finetune", "net_arch", "pi"), [128, 64]),
        (("reward", "terms"), {"reward_net": 0.5, "dice": 0.5}),
        (("data", "split"), {"kind": "auto"}),
        (("data", "split", "train"), None),
        (("seed",), None),
        (("name",), None),
        (("nope", "x"), None),
    ],
)
def test_a_container_that_a_spec_leaves_out_starts_as_its_default(
    path: tuple[str | int, ...], container: object
) -> None:
    """Setting one entry of a list or a dictionary keeps the others; a section keeps its defaults anyway."""
    assert default_container(JobSpec, path) == container


def test_default_sections_in_a_list_are_spelled_out() -> None:
    """The first of the default post-processings is the plain threshold, as JSON."""
    container = default_container(JobSpec, ("actions", "postprocess"))
    assert isinstance(container, list)
    assert container[0] == {"threshold": 0.5, "low": None, "min_area": 0, "closing_radius": 0}
