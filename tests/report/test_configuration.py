from job.report.configuration import settings
from tests.report.factory import make_info


def test_every_leaf_has_a_row_in_order() -> None:
    """Dotted paths, numbers and lists as JSON, a post-processing on one line."""
    info = make_info()
    rows = {setting.path: setting.value for setting in settings(info.spec, info.origins)}
    assert list(rows)[:3] == ["version", "name", "seed"]
    assert rows["data.width"] == "null"
    assert rows["finetune.net_arch.pi"] == "[128, 64]"
    assert rows["actions.postprocess[1]"] == "threshold 0.8, low 0.4, min_area 0, closing_radius 0"
    assert rows["actions.prompts[2]"] == "Segment the major vessels."


def test_origins_follow_values_up_and_down() -> None:
    """A value is given by its own place, by that of the list it is in, or by that of a part of it."""
    spec = {"a": {"b": 1, "c": 2}, "d": ["x", "y"], "e": [{"f": 1}], "ab": 3}
    origins = {"a.b": "file:1:2", "d": "--set", "e[0].f": "file:3:4", "a": ""}
    found = {setting.path: setting.origin for setting in settings(spec, origins)}
    assert found == {
        "a.b": "file:1:2", "a.c": "", "d[0]": "--set", "d[1]": "--set", "e[0]": "file:3:4", "ab": "",
    }  # fmt: skip


def test_secrets_are_not_shown() -> None:
    """Keys that name secrets, and passwords within addresses, stay out of the page."""
    spec = {
        "access_key": "hunter2",
        "data": {"uri": "https://me:hunter2@host/x"},
        "list": [{"token": "hunter2"}],
    }
    shown = settings(spec, {})
    assert not any("hunter2" in setting.value for setting in shown)
    assert len(shown) == 3
