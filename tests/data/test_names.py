"""Names of samples: unique, file-safe, stable; and paths as printable text."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from job.data.names import is_utf8, printable, unique_names

PART = st.sampled_from(["a", "A", "b", "a_b", "x", "x_b", "a b", "image", "---", "n" * 99, "n" * 120 + "1"])
PATHS = st.builds(
    lambda folders, stem, suffix: Path(*folders, stem + suffix),
    st.lists(PART, max_size=2).map(lambda parts: ["images", *parts]),
    PART,
    st.sampled_from([".png", ".jpg"]),
)


def test_names_are_unique_and_safe() -> None:
    """Names that collide, also by case or after cleaning, get their folder, else a hash."""
    paths = [
        "images/x.png",
        "images/l/01.png",
        "images/r/01.png",
        "images/b c.png",
        "images/b_c.png",
        "A.png",
    ]
    paths += [
        "images/a.png",
        "images/q.png",
        "images/q.jpg",
        "images/..hidden.png",
        "images/%s.png" % ("n" * 300),
    ]
    names = unique_names([Path(p) for p in paths])
    assert names[:3] == ["x", "l_01", "r_01"]
    assert len({name.lower() for name in names}) == len(paths)
    assert all(name.strip("._-") and not set(name) & set("/\\ %") and len(name) <= 120 for name in names)
    assert names == unique_names([Path(p) for p in paths])


@given(st.lists(PATHS, max_size=12, unique=True))
def test_names_are_unique_whatever_the_paths(paths: list[Path]) -> None:
    """No two of any paths share a name, case aside; each is a safe file name, whatever the order."""
    names = unique_names(paths)
    assert len({name.lower() for name in names}) == len(paths)
    assert all(0 < len(name) <= 100 and name.isascii() and not set(name) & set("/\\ ") for name in names)
    assert dict(zip(paths[::-1], unique_names(paths[::-1]), strict=True)) == dict(
        zip(paths, names, strict=True)
    )


def test_long_stems_that_begin_alike_stay_apart() -> None:
    """Stems that differ after their hundredth character only, get hashes that are not cut off."""
    one, two = unique_names([Path("images", "n" * 200 + end + ".png") for end in "ab"])
    assert one != two
    assert max(len(one), len(two)) <= 100


def test_a_path_never_takes_another_images_stem() -> None:
    """`x/b` is not called `x_b` beside an image whose own stem is `x_b`."""
    names = unique_names([Path("images", p) for p in ("x/b.png", "z/b.png", "y/x_b.png")])
    assert names[1:] == ["z_b", "x_b"]
    assert names[0].startswith("b-")


def test_a_stem_like_a_hash_is_left_to_its_image() -> None:
    """A file called like the hash that another would get keeps its stem; the other gets a further hash."""
    paths = [Path("images", f"q{suffix}") for suffix in (".png", ".jpg")]
    hashed = unique_names(paths)
    with_rival = unique_names([*paths, Path("images", f"{hashed[0]}.png")])
    assert with_rival[1:] == [hashed[1], hashed[0]]
    assert with_rival[0] not in with_rival[1:]


def test_bytes_that_are_not_utf8_become_printable() -> None:
    """What the file system returns for a byte 0xf3 is shown as that byte; UTF-8 stays as it is."""
    assert printable("p\udcf3.png") == r"p\xf3.png"
    assert printable(Path("images/ó.png")) == "images/ó.png"
    assert not is_utf8("p\udcf3.png")
    assert is_utf8("ó")
