"""The embedded network and its words as `transformers` knows them: `from_pretrained`, `save_pretrained`."""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from job.segmenters.promptable_unet.modelling import MODEL_TYPE, PromptableUNet


class PretrainedPromptableUNetConfig(PretrainedConfig):  # type: ignore[misc]
    """What `PromptableUNetConfig` holds."""

    model_type = MODEL_TYPE

    def __init__(
        self,
        widths: tuple[int, ...] = (16, 32, 64, 80),
        decoder_widths: tuple[int, ...] = (16, 24, 40),
        vocab_size: int = 128,
        text_width: int = 32,
        pad_token_id: int = 0,
        **more: object,
    ) -> None:
        super().__init__(pad_token_id=pad_token_id, **more)
        self.widths = list(widths)
        self.decoder_widths = list(decoder_widths)
        self.vocab_size = vocab_size
        self.text_width = text_width


class PretrainedPromptableUNet(PromptableUNet, PreTrainedModel):  # type: ignore[misc]
    """The same network, with the same parameters."""

    config_class = PretrainedPromptableUNetConfig
    base_model_prefix = MODEL_TYPE
    main_input_name = "pixels_B3HW"

    def __init__(self, config: PretrainedPromptableUNetConfig) -> None:
        super().__init__(config, config)
        PreTrainedModel.post_init(self)

    def _init_weights(self, module: nn.Module) -> None:
        """Keep PyTorch's own initialisation, which `transformers` would else replace."""


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer: lower case, no punctuation, `[UNK]` for what is not among `words`."""
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a word, not a secret
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\p{L}\p{N}\s]"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")  # noqa: S106
