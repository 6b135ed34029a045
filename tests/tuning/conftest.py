"""Small images, a short course, and rooms for phases."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from job.data.dataset import Loaded
from job.data.fundus import sample
from job.logs import Output
from job.segmenters.promptable_unet.adapter import EMBEDDED_CHECKPOINT
from job.segmenters.promptable_unet.trainable import TrainablePromptableUNet, open_trainable
from job.tuning.phase import PhaseData, PhaseRoom

PROMPT = "Segment the major vessels."
"""Finds next to nothing in images this small: there is something to learn."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are taken in one order, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def images() -> list[Loaded]:
    """Six images of 64 px with all vessels annotated."""
    pictures = [sample(index, seed=21, size=64, annotation="all") for index in range(6)]
    return [Loaded(picture.image_HWC, picture.mask_HW, None) for picture in pictures]


@pytest.fixture(scope="session")
def data(images: list[Loaded]) -> PhaseData:
    """Four training images; two of validation, each a patient's."""
    return PhaseData(PROMPT, images[:4], [], images[4:], ["a", "b"])


@pytest.fixture
def room(tmp_path: Path) -> PhaseRoom:
    """A silent room on the CPU."""
    return PhaseRoom(
        seed=3, device="cpu", log=Output(stream=io.StringIO()).log, resume_folder=tmp_path / "resume"
    )


@pytest.fixture
def opened() -> Callable[[], TrainablePromptableUNet]:
    """Open the embedded checkpoint anew."""
    return lambda: open_trainable(EMBEDDED_CHECKPOINT, "cpu")
