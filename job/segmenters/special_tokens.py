"""Prompts in plain words: a model's special tokens in them would end, cut or steer what it reads."""

from typing import Any

from job.errors import SpecError

_MARKS = set("<>[]|")
"""One of them at least is in each token that is more than a word."""


def require_plain_words(prompt: str, words: str, tokenizer: Any) -> None:
    """Raise `SpecError` where the words of a prompt hold a special token of this tokenizer."""
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
    special = {**named, **added}
    met = [special[i] for i in tokenizer.encode(words, add_special_tokens=False) if i in special]
    # Nobody wrote the token of a character that is not known, and some CLIPs pad with "!".
    found = [one for one in met if _MARKS & set(one) and one.lower() in words.lower()]
    if found:
        raise SpecError(
            f"the prompt {prompt!r} holds {found[0]}, which is a special token of this model",
            advice="write what to segment in plain words",
        )
