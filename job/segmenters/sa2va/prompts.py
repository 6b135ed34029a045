"""What a prompt may say, and the text that a checkpoint's `predict_forward` gets of it."""

from collections.abc import Sequence
from typing import Any

from job.errors import SpecError

IMAGE = "<image>"


def texts(prompts: Sequence[str], tokenizer: Any, *, image_first: bool) -> list[str]:
    """Return each prompt as `predict_forward` wants it: with exactly one `<image>`, at the start.

    A prompt without one gets it. With `image_first` the model puts the image there itself, and texts hold
    none. Raises ValueError for no prompts, `SpecError` for an image elsewhere or twice, and for special
    tokens such as [SEG], with which a prompt would make masks of its own.
    """
    if not prompts:
        raise ValueError("segment needs at least one prompt")
    special = _special(tokenizer)
    return [_text(prompt, tokenizer, special, image_first=image_first) for prompt in prompts]


def _text(prompt: str, tokenizer: Any, special: dict[int, str], *, image_first: bool) -> str:
    if prompt.count(IMAGE) > 1 or (IMAGE in prompt and not prompt.startswith(IMAGE)):
        raise SpecError(
            f"the prompt {prompt!r} must hold {IMAGE} once, at its start, or not at all",
            advice=f"leave {IMAGE} out: it is put in where the model expects it",
        )
    words = prompt.removeprefix(IMAGE)
    found = [special[i] for i in tokenizer.encode(words, add_special_tokens=False) if i in special]
    if found:
        raise SpecError(
            f"the prompt {prompt!r} holds {found[0]}, which is a special token of this model",
            advice="write what to segment in plain words",
        )
    if image_first:
        return words
    return prompt if IMAGE in prompt else f"{IMAGE}\n{prompt}"


def _special(tokenizer: Any) -> dict[int, str]:
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
    # A character that the tokenizer does not know is no token that anybody wrote.
    return {n: str(token) for n, token in {**named, **added}.items() if n != tokenizer.unk_token_id}
