"""Images through a candidate: read ahead, segmented in batches, and predicted behind the segmenter."""

from collections.abc import Callable, Generator, MutableMapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from job import device, workers
from job.data.dataset import Loaded, Sample
from job.data.images import pixel_digest
from job.errors import InputError
from job.evaluation.candidate import Candidate, Prediction
from job.in_order import Begun, in_order, nothing_to_do
from job.mask_judging import PIXELS_JUDGED
from job.progress import Progress, SharedTask, Task
from job.segmenters.protocol import Segmentation, Segmenter
from job.table_making import batches, n_pixels, read_ahead
from job.workers import Workers

R = TypeVar("R")


@dataclass(frozen=True)
class Photograph:
    """A sample at the candidate's working width, and the size (height, width) that its image has itself."""

    sample: Sample
    loaded: Loaded
    own_size: tuple[int, ...]


@dataclass(frozen=True)
class CandidateAtWork:
    """A candidate with its segmenter, asked for as many images at once as in the job that made it.

    `names` learns the names of images, by pixel digest, before the segmenter is asked for them.
    """

    candidate: Candidate
    segmenter: Segmenter
    names: MutableMapping[str, str]
    threads: int
    today: Segmenter | None = None
    """What the user has today, where the candidate's weights were trained: it makes the no-op's masks."""

    def each(
        self,
        samples: Sequence[Sample],
        read: Callable[[Sample], Photograph | InputError],
        finish: Callable[[Photograph, Prediction], R],
        *,
        what: str,
        progress: Progress,
    ) -> Generator[R | InputError, None, None]:
        """Yield, in order, what `finish` makes of each image and its prediction, or why it was not read.

        `read` and `finish` are called in other threads, up to `threads` of them; the segmenter in this one.
        """
        with progress.task(what, len(samples), "images") as task:
            shared = SharedTask(task)
            with (
                device.threads_of_one_core() as start,
                workers.threads(self.threads, shared, start) as judges,
                closing(
                    in_order(
                        self._begun(samples, read, finish, judges),
                        most=PIXELS_JUDGED,
                        look=lambda: shared.advance(0),
                    )
                ) as found,
            ):
                for one in found:
                    yield one
                    shared.advance()

    def _begun(
        self,
        samples: Sequence[Sample],
        read: Callable[[Sample], Photograph | InputError],
        finish: Callable[[Photograph, Prediction], R],
        judges: Workers,
    ) -> Generator[Begun[R | InputError], None, None]:
        file = self.candidate.file
        with closing(read_ahead(read, samples, self.threads, _pixels)) as photographs:
            for batch in batches(photographs, file.segmenter.batch_size, _pixels):
                readable = [one for one in batch if isinstance(one, Photograph)]
                answers = iter(zip(self._segmented(readable), self._today(readable), strict=True))
                for one in batch:
                    if isinstance(one, InputError):
                        yield nothing_to_do(one)
                    else:
                        yield Begun(judges.submit(self._finished, one, *next(answers), finish), _pixels(one))

    def _segmented(self, photographs: Sequence[Photograph]) -> list[Segmentation]:
        images = [one.loaded.image for one in photographs]
        self.names.update((pixel_digest(one.loaded.image), one.sample.name) for one in photographs)
        return self.segmenter.segment(images, self.candidate.file.prompts) if images else []

    def _today(self, photographs: Sequence[Photograph]) -> Sequence[Segmentation | None]:
        if self.today is None or not photographs:
            return [None] * len(photographs)
        images = [one.loaded.image for one in photographs]
        return self.today.segment(images, self.candidate.file.prompts[:1])

    def _finished(
        self,
        one: Photograph,
        segmentation: Segmentation,
        today: Segmentation | None,
        finish: Callable[[Photograph, Prediction], R],
        task: Task,
    ) -> R:
        task.advance(0)
        prediction = self.candidate.predict(one.loaded.image, segmentation, one.loaded.fov, today)
        return finish(one, prediction)


def _pixels(one: Photograph | InputError) -> int:
    return n_pixels(one.loaded) if isinstance(one, Photograph) else 0
