"""What can be chosen about a Sa2VA checkpoint. No torch here: specs and cache keys are made of it."""

from dataclasses import dataclass
from typing import Literal, get_args

Path_ = Literal["shared", "generate"]
Dtype = Literal["bfloat16", "float16", "float32"]
Attention = Literal["sdpa", "eager"]
SeveralSeg = Literal["first", "last", "union"]


@dataclass(frozen=True)
class Sa2vaOptions:
    """How a checkpoint is run; the defaults are the spec's. Raises ValueError for values outside their range.

    `path`: `shared` computes what prompts of an image have in common once, and falls back to generation for
    a pair where the model would not give `reply`; `generate` calls `predict_forward` for each pair.
    `attention` is that of the language model and of InternViT. `compile` passes the image encoders through
    `torch.compile`. `images_per_batch` and `prompts_per_batch` are chosen by the size of the image where
    they are None. `max_new_tokens` caps generation. `several_seg`: which mask counts where a reply has
    several [SEG] (`union`: the largest logit of each pixel). `trust_code` is the digest of the checkpoint's
    code that the user vouches for (`job.segmenters.remote_code`).
    """

    path: Path_
    dtype: Dtype
    attention: Attention
    compile: bool
    images_per_batch: int | None
    prompts_per_batch: int | None
    max_new_tokens: int
    several_seg: SeveralSeg
    reply: str
    trust_code: str | None

    def __post_init__(self) -> None:
        choices = {"path": Path_, "dtype": Dtype, "attention": Attention, "several_seg": SeveralSeg}
        for name, choice in choices.items():
            if getattr(self, name) not in get_args(choice):
                raise ValueError(f"{name} must be one of {get_args(choice)}, got {getattr(self, name)!r}")
        for name in ("images_per_batch", "prompts_per_batch"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if self.max_new_tokens < 2:
            raise ValueError(f"max_new_tokens must be at least 2, got {self.max_new_tokens}")
        if self.reply.count("[SEG]") != 1:
            raise ValueError(f"reply must hold [SEG] exactly once, got {self.reply!r}")

    def identity(self) -> dict[str, str | int | bool]:
        """Return the options that shape the logits, for cache keys."""
        return {
            "path": self.path,
            "dtype": self.dtype,
            "attention": self.attention,
            "compile": self.compile,
            "max_new_tokens": self.max_new_tokens,
            "several_seg": self.several_seg,
            **({"reply": self.reply} if self.path == "shared" else {}),
        }
