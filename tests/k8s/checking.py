"""Everything that a manifest is held against, in the order in which it would be found out."""

from collections.abc import Iterator

import kubernetes_validate

from tests.k8s.house_rules import house_problems
from tests.k8s.manifests import Document
from tests.k8s.server_rules import server_problems

OLDEST, NEWEST = "1.31", "1.37"
"""Supported versions: from the first with a settled podFailurePolicy to the newest with a schema."""


def problems(documents: list[Document], others: list[Document]) -> Iterator[tuple[str, str]]:
    """Yield (who says so, what is wrong) of documents; `others` are there before them."""
    clean = True
    for document in documents:
        for version in (OLDEST, NEWEST):
            try:
                used = kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                clean = False
                yield "schema", f"{version}: {'.'.join(map(str, error.path))}: {error.message}"
            except kubernetes_validate.SchemaNotFoundError as error:
                clean = False
                yield "schema", error.message
            else:
                assert used == version, f"there is no schema of {version}, {used} was taken"
    if not clean:  # the rules below take what a schema promises for granted
        return
    for document in documents:
        for problem in server_problems(document):
            clean = False
            yield "server", problem
    if clean:
        for problem in house_problems(documents, others):
            yield "house", problem
