"""What a prompt may say, and the text that a checkpoint's `predict_forward` gets of it."""

from collections.abc import Sequence
from typing import Any

from job.errors import SpecError
from job.segmenters.special_tokens import require_plain_words

IMAGE = "<image>"


def texts(prompts: Sequence[str], tokenizer: Any, *, image_first: bool) -> list[str]:
    """Return each prompt as `predict_forward` wants it: with exactly one `<image>`, at the start.

    A prompt without one gets it. With `image_first` the model puts the image there itself, and texts hold
    none. Raises ValueError for no prompts, `SpecError` for an image elsewhere or twice, and for special
    tokens such as [SEG], with which a prompt would make masks of its own.
    """
    if not prompts:
        raise ValueError("segment needs at least one prompt")
    return [_text(prompt, tokenizer, image_first=image_first) for prompt in prompts]


def _text(prompt: str, tokenizer: Any, *, image_first: bool) -> str:
    if prompt.count(IMAGE) > 1 or (IMAGE in prompt and not prompt.startswith(IMAGE)):
        raise SpecError(
            f"the prompt {prompt!r} must hold {IMAGE} once, at its start, or not at all",
            advice=f"leave {IMAGE} out: it is put in where the model expects it",
        )
    words = prompt.removeprefix(IMAGE)
    require_plain_words(prompt, words, tokenizer)
    if image_first:
        return words
    return prompt if IMAGE in prompt else f"{IMAGE}\n{prompt}"
