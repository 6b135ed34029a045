"""The path `shared`: what the prompts of an image have in common is computed once, and nothing waits.

Images are resized on threads while the device works on earlier ones, and a batch's results are fetched after
the next batch was handed to the device.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job.errors import SpecError
from job.segmenters.protocol import Finish, Segmentation
from job.segmenters.sa2va import language
from job.segmenters.sa2va.counters import Counters
from job.segmenters.sa2va.family import Family, Prefix, Prepared
from job.segmenters.sa2va.intern_vl import InternVL
from job.segmenters.sa2va.language import Packed
from job.segmenters.sa2va.loading import Checkpoint
from job.segmenters.sa2va.options import Sa2vaOptions
from job.segmenters.sa2va.qwen_vl import QwenVL
from job.segmenters.sa2va.reference import one_surface
from job.segmenters.sa2va.resize import upload
from job.segmenters.sa2va.sam2 import ImageFeatures, Sam2

_TOKENS_PER_BATCH = 12_000
_MOST_IMAGES = 10
_ROOMY = 40 * 10**9
"""Bytes of a device's memory from which on batches are twice as large: Python hands each over in as many
steps, and masks that are made meanwhile make every step slower."""
_PROMPTS_PER_BATCH = 32
_LARGEST = float(np.finfo(np.float16).max)

_Layout = tuple[list[list[int]], list[Packed]]


@dataclass(frozen=True)
class _Handed:
    """A batch that the device works on: everything that finishing it needs."""

    positions: Sequence[int]
    prefix: Prefix
    features: ImageFeatures
    logits_BPHW: Tensor
    """On its way to `ready`'s host memory."""
    agrees_BP: Tensor
    embedding_BD: Tensor
    ready: "torch.cuda.Event | None"


class _Unfinished:
    """A batch on its way; once it is settled it holds nothing of the device."""

    def __init__(self, finish: Callable[[], Iterator[tuple[int, Segmentation]]]) -> None:
        self._finish: Callable[[], Iterator[tuple[int, Segmentation]]] | None = finish
        self._answers: list[tuple[int, Segmentation]] = []
        self._error: Exception | None = None
        self._lock = Lock()

    def settle(self) -> None:
        """Wait for its answers; an error is for whoever asks for them."""
        with self._lock:
            if self._finish is None:
                return
            finish, self._finish = self._finish, None
            try:
                with torch.inference_mode():
                    self._answers = list(finish())
            except Exception as error:
                self._error = error

    def answers(self) -> list[tuple[int, Segmentation]]:
        """Wait for them: positions in the call, and what is there."""
        self.settle()
        if self._error is not None:
            raise self._error
        return self._answers


class Shared:
    """Segments images with prompts, many at once.

    Safe to call from several threads: one queues work on the device while another waits for its own.
    """

    def __init__(
        self, checkpoint: Checkpoint, options: Sa2vaOptions, counters: Counters, *, rounded: bool = True
    ) -> None:
        """Prepare for a checkpoint; without `rounded` logits stay float32, for comparisons."""
        self._family: Family = (QwenVL if checkpoint.is_qwen_vl else InternVL)(checkpoint)
        self._sam2 = Sam2(checkpoint)
        self._options = options
        self._counters = counters
        self._device = checkpoint.device
        self._dtype = torch.float16 if rounded else torch.float32
        self._scale = 2 if _memory_bytes(self._device) >= _ROOMY else 1
        self._queueing = Lock()
        self._latest: _Unfinished | None = None
        self._layout: tuple[tuple[str, ...], _Layout] | None = None
        self._reply = self._family.tokenizer.encode(options.reply, add_special_tokens=False)
        if self._reply.count(self._family.seg_id) != 1:
            raise SpecError(
                f"segmenter.reply {options.reply!r} does not hold [SEG] once for this tokenizer",
                advice="write the reply as the model gives it, such as 'Sure, [SEG].'",
            )
        if options.max_new_tokens <= len(self._reply):
            raise SpecError(
                f"segmenter.max_new_tokens {options.max_new_tokens} leaves no room for the reply",
                advice=f"set it to {len(self._reply) + 1} or more",
            )

    @property
    def logits_size(self) -> tuple[int, int]:
        """Height and width of the logits."""
        return self._sam2.size

    def segment(self, images: Sequence[NDArray[np.uint8]], texts: Sequence[str]) -> list[Segmentation]:
        """Answer each image; `texts` as `prompts.texts` gives them."""
        return self.begin(images, texts)()

    def begin(self, images: Sequence[NDArray[np.uint8]], texts: Sequence[str]) -> Finish:
        """Hand all images to the device; what is returned waits for the answers that are not there yet.

        One batch at most is not waited for, whoever's: the next call's first may be on its way already. The
        answers are there once.
        """
        begun: list[_Unfinished] = []
        tails, packed = self._laid_out(tuple(texts))
        try:
            with torch.inference_mode():
                for positions, batch in self._batches(images):
                    with self._queueing:
                        handed = self._hand_over(positions, batch, packed)
                        begun.append(_Unfinished(partial(self._finish, handed, tails)))
                        before, self._latest = self._latest, begun[-1]
                    if before is not None:
                        before.settle()
        except BaseException:
            self._forget(begun)  # nobody will ask for them, and one holds the device's memory
            raise

        def finish() -> list[Segmentation]:
            try:
                answers = dict(answer for one in begun for answer in one.answers())
            finally:
                self._forget(begun)
                begun.clear()
            return [answers[position] for position in range(len(images))]

        return finish

    def _laid_out(self, texts: tuple[str, ...]) -> _Layout:
        """Return each text's tokens behind the image, and those of all as they are run."""
        # Once: a small tensor of the host's is copied only after everything that the device has to do.
        layout = self._layout
        if layout is None or layout[0] != texts:
            layout = self._layout = (texts, self._lay_out(texts))
        return layout[1]

    def _lay_out(self, texts: Sequence[str]) -> _Layout:
        tails = self._family.tails(texts)
        whole = self._options.several_seg != "first"
        step = self._options.prompts_per_batch or _PROMPTS_PER_BATCH
        return tails, [
            language.pack(self._family, tails[first : first + step], self._reply, whole=whole)
            for first in range(0, len(tails), step)
        ]

    def _forget(self, begun: Sequence[_Unfinished]) -> None:
        with self._queueing:
            self._latest = None if self._latest in begun else self._latest

    def _batches(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[list[int], list[Prepared]]]:
        """Yield batches of images of one group, resized on threads a bounded number of images ahead."""
        waiting: dict[tuple[int, ...], list[tuple[int, Prepared]]] = {}
        for position, prepared in self._prepared(images):
            group = waiting.setdefault(prepared.group, [])
            group.append((position, prepared))
            if len(group) == self._images_per_batch(prepared):
                yield _unzipped(waiting.pop(prepared.group))
        for group in waiting.values():
            yield _unzipped(group)

    def _prepared(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[int, Prepared]]:
        threads = torch.get_num_threads()
        ahead = 2 * max(threads, self._options.images_per_batch or self._scale * _MOST_IMAGES)
        with ThreadPoolExecutor(threads, thread_name_prefix="sa2va-resize") as pool:
            coming: deque[Future[Prepared]] = deque()
            for position in range(len(images)):
                upto = min(len(images), position + ahead)
                coming.extend(
                    pool.submit(self._family.prepare, one) for one in images[position + len(coming) : upto]
                )
                yield position, coming.popleft().result()

    def _images_per_batch(self, prepared: Prepared) -> int:
        if self._options.images_per_batch is not None:
            return self._options.images_per_batch
        tokens = self._scale * _TOKENS_PER_BATCH
        return max(1, min(self._scale * _MOST_IMAGES, tokens // self._family.tokens(prepared)))

    def _hand_over(
        self, positions: Sequence[int], batch: Sequence[Prepared], packed: Sequence[Packed]
    ) -> _Handed:
        """Queue all of a batch's work on the device, without waiting for any of it."""
        count = len(batch)
        if self._options.compile and self._options.images_per_batch is not None:
            # Compiled encoders are made for one shape: the last image fills the batch up.
            batch = [*batch, *[batch[-1]] * (self._options.images_per_batch - count)]
        runs = upload([one.picture_HWC for one in batch], self._device)
        features = self._sam2.encode(runs)
        prefix = self._family.read(batch, runs)
        surfaces, agrees = [], []
        for part in packed:
            answers = language.ask(self._family, prefix, part)
            owners_M = torch.arange(len(batch), device=self._device).repeat_interleave(len(part.seg_P))
            logits_MHW = self._sam2.decode(features, owners_M, answers.seg_BPC.flatten(0, 1))
            surfaces.append(self._finite(logits_MHW).view(len(batch), -1, *self._sam2.size))
            agrees.append(answers.agrees_BP)
        logits_BPHW, agrees_BP = torch.cat(surfaces, dim=1)[:count], torch.cat(agrees, dim=1)[:count]
        host = [_to_host(one) for one in (logits_BPHW, agrees_BP, prefix.embedding_BD[:count])]
        ready = None
        if self._device.type == "cuda":
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
        return _Handed(positions, prefix, features, host[0], host[1], host[2], ready)

    def _finish(self, handed: _Handed, tails: Sequence[Sequence[int]]) -> Iterator[tuple[int, Segmentation]]:
        """Wait for a batch, generate where the model would have replied otherwise, and yield it."""
        if handed.ready is not None:
            handed.ready.synchronize()
        agrees_BP = handed.agrees_BP.numpy()
        logits_BPHW = handed.logits_BPHW.numpy()
        with self._queueing:
            for b, p in np.argwhere(~agrees_BP):
                logits_BPHW[b, p] = self._generated(handed, int(b), tails[p])
            self._counters.pairs += agrees_BP.size
            self._counters.fallback_pairs += int((~agrees_BP).sum())
        embedding_BD = handed.embedding_BD.numpy()
        for b, position in enumerate(handed.positions):
            # Copies: the memory that the device writes to is scarce, and needed again.
            yield position, Segmentation(logits_BPHW[b].copy(), embedding_BD[b].copy())

    def _generated(self, handed: _Handed, b: int, tail: Sequence[int]) -> NDArray[np.floating]:
        options = self._options
        reply = language.generate(self._family, handed.prefix.row(b), tail, options.max_new_tokens)
        self._counters.other_replies[reply.text] += 1
        owners_S = torch.full((len(reply.seg_SC),), b, device=self._device)
        logits_SHW = self._sam2.decode(handed.features, owners_S, reply.seg_SC)
        surface_HW = one_surface(logits_SHW, options.several_seg, self._sam2.size, self._counters)
        surface: NDArray[np.floating] = self._finite(surface_HW).cpu().numpy()
        return surface

    def _finite(self, logits: Tensor) -> Tensor:
        return logits.clamp(-_LARGEST, _LARGEST).to(self._dtype)


def _unzipped(group: list[tuple[int, Prepared]]) -> tuple[list[int], list[Prepared]]:
    return [position for position, _ in group], [prepared for _, prepared in group]


def _memory_bytes(device: torch.device) -> int:
    # All that it has, not what is free: how images are batched must not depend on the moment.
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def _to_host(tensor: Tensor) -> Tensor:
    """Queue the copy of a tensor to the host; it is there when the event recorded behind it is."""
    if tensor.device.type != "cuda":
        return tensor.contiguous().clone()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
