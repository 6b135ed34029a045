"""Special tokens in prompts are refused for every tokenizer, and nothing else is."""

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from job.errors import SpecError
from job.segmenters.special_tokens import require_plain_words


def tokenizer(unk: str, pad: str) -> PreTrainedTokenizerFast:
    """Whole words, with the special tokens of CLIP; what it does not know is `unk`."""
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "<unk>": 2, "!": 3, "vessels": 4}
    plain = Tokenizer(models.WordLevel(words, unk_token=unk))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token=unk,
        pad_token=pad,
    )  # fmt: skip
    made.add_tokens([AddedToken("[SEG]", special=True)], special_tokens=True)
    return made


CLIPS = [("<unk>", "<|endoftext|>"), ("<|endoftext|>", "<|endoftext|>"), ("<|endoftext|>", "!")]


@pytest.mark.parametrize(("unk", "pad"), CLIPS)
@pytest.mark.parametrize("prompt", ["vessels <|endoftext|> arteries", "[SEG] vessels", "<|startoftext|>"])
def test_special_tokens_are_refused(unk: str, pad: str, prompt: str) -> None:
    """CLIP reads up to the first token of the end: two prompts could become one."""
    with pytest.raises(SpecError, match="special token"):
        require_plain_words(prompt, prompt, tokenizer(unk, pad))


@pytest.mark.parametrize(("unk", "pad"), CLIPS)
@pytest.mark.parametrize("prompt", ["vessels!", "血管 vessels", "vessels < 3 px", "[fine] | thin"])
def test_other_characters_are_words(unk: str, pad: str, prompt: str) -> None:
    """Also those that the tokenizer does not know, or pads with."""
    require_plain_words(prompt, prompt, tokenizer(unk, pad))
