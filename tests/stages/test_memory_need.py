"""Pictures that do not fit into memory are refused before any work, with a width that would fit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from job.device import Machine
from job.errors import InputError
from job.stages import pull
from job.stages.memory_need import BYTES_PER_PIXEL_OF_SEGMENTER, Held, memory_need, require_memory
from job.stages.stage import StageContext
from tests.stages.test_pull import context_of, make_folder, pulled

MEGA = 1_000_000
OF_SEGMENTER = BYTES_PER_PIXEL_OF_SEGMENTER["promptable_unet", "cpu"]


def need_of(*sizes: tuple[str, int, int], of_segmenter: int = OF_SEGMENTER, **changes: int) -> int:
    held = Held(
        n_prompts=6, batch_size=1, copies=1, logits_of_image_size=True, bytes_of_segmenter=of_segmenter
    )
    return memory_need(list(sizes), replace(held, **changes)).n_bytes


def test_the_largest_picture_decides_whatever_its_side() -> None:
    """Batches are cut by pixels, so that a thousand small ones take no more than one; a large one does."""
    small = ("train", 100, 100)
    assert need_of(("test", 6000, 6000), small) == need_of(("test", 6000, 6000), *[small] * 50)
    assert need_of(("other:B", 6000, 6000), small) == need_of(("test", 6000, 6000), small)
    per_pixel = need_of(("test", 6000, 6000), small) / 36e6
    assert OF_SEGMENTER < per_pixel < OF_SEGMENTER + 50


def test_what_learning_holds_counts() -> None:
    """Images to learn from and choose on are held on the network's grid; one is worked on at full size."""
    one, many = [("train", 1000, 1000)], [("train", 1000, 1000)] * 1000 + [("validation", 100, 100)] * 500
    held = (999 * 256 * 256 + 500 * 100 * 100) * 24
    assert need_of(*many, of_segmenter=0) == need_of(*one, of_segmenter=0) + held
    assert need_of(("validation", 1000, 1000), of_segmenter=0) == need_of(*one, of_segmenter=0)
    assert need_of(("test", 1000, 1000), of_segmenter=0) < need_of(*one, of_segmenter=0)


def test_the_logits_of_a_batch_lie_in_memory_together() -> None:
    """With the largest picture at least the smallest others; a batch ends at a number of pixels."""
    pictures = [("test", 2000, 2000), *[("test", 1000, 1000)] * 3, ("test", 500, 500)]
    alone = need_of(*pictures)
    bytes_a_pixel = 5 + 2 * 6
    assert need_of(*pictures, batch_size=2) - alone == 500 * 500 * bytes_a_pixel
    assert need_of(*pictures, batch_size=3) - alone == (500 * 500 + 1000 * 1000) * bytes_a_pixel
    many = [("test", 2000, 2000)] * 100
    assert need_of(*many, batch_size=64) - need_of(*many) == 3 * 4e6 * bytes_a_pixel
    assert need_of(("test", 9000, 9000), ("test", 9, 9), batch_size=8) == need_of(("test", 9000, 9000))


def test_processes_hold_copies_and_small_logits_count_for_nothing() -> None:
    """What is on its way to a process is here, in between and there."""
    picture = ("test", 3000, 2000)
    assert need_of(picture, copies=3) - need_of(picture) == 2 * 6e6 * (5 + 2 * 6)
    assert need_of(picture) - need_of(picture, logits_of_image_size=False) == 6e6 * 2 * 6


@pytest.mark.parametrize(
    ("device", "threads", "n_images", "copies"),
    [("cpu", 1, 1000, 1), ("cpu", 16, 1000, 3), ("cpu", 16, 2, 1), ("cuda", 1, 1000, 1), ("cuda", 2, 100, 3)],
)
def test_a_job_counts_copies_where_its_table_is_made_in_processes(
    context: StageContext,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    threads: int,
    n_images: int,
    copies: int,
) -> None:
    """With many cores, or beside an accelerator, and work that is worth their start."""
    sizes = [["test", 1000, 1000]] * n_images
    (context.done["pull"].folder / pull.SIZES_FILE).write_text(json.dumps(sizes))
    seen = Mock(side_effect=memory_need)
    monkeypatch.setattr("job.stages.memory_need.memory_need", seen)
    require_memory(replace(context, machine=Machine(device, "its name", threads)))
    assert seen.call_args.args[1].copies == copies


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    data = make_folder(tmp_path / "data")
    context, _ = pulled(context_of(data, tmp_path, {}), tmp_path)
    return replace(context, machine=Machine("cpu", "a processor", 1))


def test_a_job_that_fits_goes_on(context: StageContext) -> None:
    """64 pixels need next to nothing; where the system does not say what is free, nothing is refused."""
    require_memory(context, free=10 * MEGA)
    require_memory(context)


def test_a_job_that_cannot_fit_is_told_a_width_that_does(context: StageContext) -> None:
    """The advice holds: at the width that it names the same job fits."""
    sizes = [["train", 64, 64], ["test", 6000, 9000]]
    (context.done["pull"].folder / pull.SIZES_FILE).write_text(str(sizes).replace("'", '"'))
    with pytest.raises(InputError, match="9000 x 6000 pixels") as caught:
        require_memory(context, free=4000 * MEGA)
    width = int(caught.value.advice.partition("data.width, to ")[2].partition(" ")[0])
    assert 2000 < width < 9000  # all as wide, the square one is the largest then
    narrower = context.spec.model_copy(update={"data": context.spec.data.model_copy(update={"width": width})})
    require_memory(replace(context, spec=narrower), free=4000 * MEGA)
    on_gpu = replace(context, machine=Machine("cuda", "a GPU", 1))
    require_memory(on_gpu, free=4000 * MEGA)  # what the segmenter takes is the device's memory


def test_asks_the_system_what_is_free(context: StageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a figure given it is that of the process, at the time of the call."""
    monkeypatch.setattr("job.stages.memory_need.available_memory", lambda: 1000)
    with pytest.raises(InputError, match="too large for the memory"):
        require_memory(context)
    monkeypatch.setattr("job.stages.memory_need.available_memory", lambda: cast("Any", None))
    require_memory(context)
