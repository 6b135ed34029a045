"""`segmenter`: the model that makes masks, of one of several kinds; `docs/segmenters.md` shows each."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from job.spec.section import Section, Uri

Dtype = Literal["bfloat16", "float16", "float32"]
BatchSize = Annotated[int, Field(ge=1, le=1024)]


class PromptableUNetSpec(Section):
    """The network that ships with the program, or an own checkpoint of its kind."""

    kind: Literal["promptable_unet"] = "promptable_unet"
    uri: Uri = "embedded:promptable_unet"
    """The checkpoint folder; `embedded:promptable_unet` is the one that ships with the program."""
    batch_size: BatchSize = 1
    """Images that go through the model together. With 1, an image's logits are the same bits whatever other
    images there are, also after an interruption; more is faster on a GPU and moves them by rounding."""


class Sa2vaSpec(Section):
    """A Sa2VA checkpoint of InternVL or Qwen-VL kind, with the code that it brings along."""

    kind: Literal["sa2va"]
    uri: Uri
    """The checkpoint folder: config.json, safetensors of any number of shards, tokenizer, code."""
    trust_code: str | None = Field(None, pattern=r"^sha256:[0-9a-f]{64}$")
    """Digest of the checkpoint's code, as `python -m job trust URI` prints it: no other code is run."""
    path: Literal["shared", "generate"] = "shared"
    """`shared` computes what prompts of an image have in common once; `generate` calls the checkpoint's own
    `predict_forward` for each image and prompt, a hundred times slower."""
    dtype: Dtype = "bfloat16"
    """Of weights and arithmetic."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Kernels of the language model and the vision tower: PyTorch's fused ones, or those of its own code."""
    compile: bool = False
    """Whether the image encoders go through torch.compile: minutes at the start, faster from there."""
    batch_size: BatchSize = 20
    """Images that are handed to the model together: 20 are two of its own batches of small pictures, or five
    of large ones, and leave none of them half empty."""
    images_per_batch: BatchSize | None = None
    """Of those, images that it computes at once; by the size of the images when null."""
    prompts_per_batch: BatchSize | None = None
    """Prompts that it computes at once; all, up to a bound, when null."""
    max_new_tokens: int = Field(64, ge=2, le=2048)
    """Longest reply, where one is generated."""
    several_seg: Literal["first", "last", "union"] = "first"
    """Which mask counts where a reply has several [SEG]."""
    reply: str = Field("Sure, [SEG].", pattern=r"^[^\[]*\[SEG\][^\[]*$", max_length=200)
    """What the model answers to a request for one mask; where it would not, it is asked (path `shared`)."""
    verify_pairs: int = Field(4, ge=0, le=10_000)
    """Random pairs of an image and a prompt that both paths compute before the table is made, to compare."""


class ClipsegSpec(Section):
    """A CLIPSeg checkpoint (`CLIPSegForImageSegmentation`)."""

    kind: Literal["clipseg"]
    uri: Uri
    """The checkpoint folder: config.json, model.safetensors, preprocessor_config.json, tokenizer."""
    dtype: Dtype = "float32"
    """Of weights and arithmetic."""
    batch_size: BatchSize = 8
    """Images that go through the encoder together."""


class Sam3Spec(Section):
    """A SAM 3 checkpoint (`Sam3Model`), asked by text for its semantic mask."""

    kind: Literal["sam3"]
    uri: Uri
    """The checkpoint folder: config.json, model.safetensors, preprocessor_config.json, tokenizer."""
    dtype: Dtype = "float32"
    """Of weights and arithmetic."""
    batch_size: BatchSize = 4
    """Images that go through the encoder together."""


class PrecomputedSpec(Section):
    """Probabilities that any model made elsewhere: a file an image and prompt."""

    kind: Literal["precomputed"]
    uri: Uri
    """Folder of `<image>/<prompt>.npz` or `.png`, and `prompts.json` where prompts have other file names."""
    batch_size: BatchSize = 1
    """Images that are read together."""


class PluginSpec(Section):
    """A segmenter of another Python package, found by its entry point."""

    kind: Literal["plugin"]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Name of the entry point in the group `segmenter_rl_job.segmenters`."""
    uri: Uri
    """The folder with what the plug-in needs: weights, configuration."""
    options: dict[str, JsonValue] = Field({})
    """What the plug-in wants to know; it checks them itself."""
    batch_size: BatchSize = 1
    """Images that are handed to it together."""


AnySegmenterSpec = PromptableUNetSpec | Sa2vaSpec | ClipsegSpec | Sam3Spec | PrecomputedSpec | PluginSpec
SegmenterSpec = Annotated[AnySegmenterSpec, Field(discriminator="kind")]
