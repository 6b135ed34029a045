"""Each way to break a manifest is found out: by the schema, by our rules for a server, or for the code."""

from collections import Counter

import pytest

from tests.k8s.checking import problems
from tests.k8s.manifests import COMMON, load
from tests.k8s.mutations import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.what.replace(" ", "-"))
def test_a_broken_manifest_is_found_out(mutation: Mutation) -> None:
    """By whom the table says, and a file that is not broken by nobody (test_manifests)."""
    found = list(problems(mutation.documents(), load(COMMON)))
    print(f"{mutation.file}: {mutation.what}: {found[:1]}")
    assert found, "nobody noticed"
    assert {who for who, _ in found} == {mutation.found_by}, found


def test_the_table_of_mutations(capsys: pytest.CaptureFixture[str]) -> None:
    """Every mutation is another one; the counts are what documentation quotes."""
    assert len({mutation.what for mutation in MUTATIONS}) == len(MUTATIONS)
    counts = Counter(mutation.found_by for mutation in MUTATIONS)
    with capsys.disabled():
        print(f"\n{len(MUTATIONS)} mutations: {dict(counts)}")
    assert len(MUTATIONS) >= 28
    assert set(counts) == {"schema", "server", "house"}
