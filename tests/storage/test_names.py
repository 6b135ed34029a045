"""Names of files within a folder."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.errors import IntegrityError
from job.storage.names import below, inner_name


@given(st.text(st.sampled_from("ab./\\\n\0"), max_size=8))
def test_an_accepted_name_is_itself_and_below(name: str) -> None:
    """Whatever the text: it is refused, or leads to one place, below the folder, by that spelling alone."""
    try:
        accepted = inner_name(name)
    except ValueError:
        return
    assert accepted == name
    place = Path("/folder", name)
    assert place.parts[:2] == ("/", "folder")
    assert ".." not in place.parts
    assert place.relative_to("/folder").as_posix() == name


@pytest.mark.parametrize("name", ["a", "a/b.png", "..a", "a..b/...", "ä b", "-rf"])
def test_honest_names_are_accepted(name: str) -> None:
    """Dots within a part are no way up."""
    assert inner_name(name) == name


@pytest.mark.parametrize("name", ["", "/", "/a", "a/", "a//b", ".", "a/../b", "a\\b", "a\nb", "a\0"])
def test_others_are_refused_in_quotes(name: str) -> None:
    """So that a message shows a newline as what it is."""
    with pytest.raises(ValueError, match="is no name of a file") as caught:
        inner_name(name)
    assert repr(name) in str(caught.value)


@given(st.text(st.sampled_from("a./\\\0\n~ é"), max_size=12))
def test_every_key_is_a_file_below_or_refused(key: str) -> None:
    """Whatever a key holds, it is one file below the folder under that very name, or an error."""
    root = Path("/root/folder")
    try:
        path = below(root, key)
    except IntegrityError:
        return
    assert path.relative_to(root).as_posix() == key
    assert ".." not in path.parts
    assert Path(str(path)).resolve().is_relative_to(root)
