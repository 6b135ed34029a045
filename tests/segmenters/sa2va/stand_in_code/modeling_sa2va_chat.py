"""A stand-in for the InternVL kind of Sa2VA: other mathematics, far smaller, the same call surface."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    Qwen2ForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
)

from .configuration_sa2va_chat import Sa2VAChatConfig
from .sam2 import SAM2, SIZE
from .templates import PROMPT_TEMPLATE

print("modeling imported")  # noqa: T201
TILE, PATCH = 28, 14


def dynamic_preprocess(
    image: Image.Image, min_num: int, max_num: int, image_size: int, use_thumbnail: bool
) -> list[Image.Image]:
    """Cut an image into as many square tiles, side by side, as it is wide in heights."""
    count = min(max(min_num, round(image.width / image.height)), max_num)
    wide = image.resize((count * image_size, image_size))
    tiles = [wide.crop((i * image_size, 0, (i + 1) * image_size, image_size)) for i in range(count)]
    return [*tiles, image.resize((image_size, image_size))] if use_thumbnail and count > 1 else tiles


class EndsWith(StoppingCriteria):
    def __init__(self, tokenizer: Any, words: list[str]) -> None:
        self.tokenizer, self.words = tokenizer, tuple(words)

    def __call__(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> bool:
        return self.tokenizer.decode(input_ids[0]).replace("\n", "").endswith(self.words)


class Enlarge:
    def apply_image(self, pixels: np.ndarray) -> np.ndarray:
        return np.array(Image.fromarray(pixels).resize((SIZE, SIZE)))


class Attention(nn.Module):
    """Has the parts by which InternViT's attention is known."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads, self.scale, self.qk_normalization = 2, (width // 2) ** -0.5, True
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def _naive_attn(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (one.unflatten(-1, (2, -1)).transpose(1, 2) for one in (self.q_norm(q), self.k_norm(k), v))
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        return self._naive_attn(x)


class Sa2VAChatModel(PreTrainedModel):
    config_class = Sa2VAChatConfig

    def __init__(self, config: Sa2VAChatConfig, use_flash_attn: bool = True) -> None:
        super().__init__(config)
        assert not use_flash_attn
        width = config.llm_config.hidden_size
        self.template = PROMPT_TEMPLATE[config.template]
        config.llm_config._attn_implementation = "eager"
        self.language_model = Qwen2ForCausalLM(config.llm_config)
        self.patches = nn.Conv2d(3, 16, PATCH, PATCH)
        self.attention = Attention(16)
        self.mlp1 = nn.Linear(16, width)
        self.grounding_encoder = SAM2()
        self.text_hidden_fcs = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 8))
        self.init_prediction_config = False

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def extract_feature(self, pixel_values: Tensor) -> Tensor:
        seen = self.patches(pixel_values).flatten(2).transpose(1, 2)
        return self.mlp1(seen + self.attention(seen))

    def preparing_for_generation(
        self, tokenizer: Any, max_new_tokens: int = 2048, torch_dtype: torch.dtype = torch.bfloat16
    ) -> None:
        self.tokenizer, self.torch_dtype, self.bot_name = tokenizer, torch_dtype, "BOT"
        self.gen_config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        self.stop_criteria = StoppingCriteriaList([EndsWith(tokenizer, self.template["STOP_WORDS"])])
        self.extra_image_processor = Enlarge()
        self.min_dynamic_patch, self.max_dynamic_patch, self.use_thumbnail = 1, 3, True
        self.image_size, self.patch_token = TILE, (TILE // PATCH) ** 2
        self.IMG_START_TOKEN, self.IMG_CONTEXT_TOKEN, self.IMG_END_TOKEN = "<img>", "<IMG_CONTEXT>", "</img>"
        self.img_context_token_id = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
        self.seg_token_idx = tokenizer.convert_tokens_to_ids("[SEG]")
        self.init_prediction_config = True

    def transformer(self, tile: Image.Image) -> Tensor:
        return (torch.from_numpy(np.array(tile)).permute(2, 0, 1).float() / 255 - 0.45) / 0.22

    @torch.no_grad()
    def predict_forward(
        self, image: Any = None, video: Any = None, text: str = "", past_text: str = "", tokenizer: Any = None
    ) -> dict[str, Any]:
        assert self.init_prediction_config
        assert image.mode == "RGB"
        assert text.count("<image>") == 1
        large = torch.from_numpy(self.extra_image_processor.apply_image(np.array(image))).permute(2, 0, 1)
        large = self.grounding_encoder.preprocess_image(large.to(self.torch_dtype))[None].to(self.torch_dtype)
        tiles = dynamic_preprocess(
            image, self.min_dynamic_patch, self.max_dynamic_patch, self.image_size, self.use_thumbnail
        )
        pixels = torch.stack([self.transformer(tile) for tile in tiles]).to(self.device, self.torch_dtype)
        shown = f"<img>{'<IMG_CONTEXT>' * (len(tiles) * self.patch_token)}</img>"
        asked = self.template["INSTRUCTION"].format(
            input=text.replace("<image>", shown), round=1, bot_name="BOT"
        )
        ids = torch.tensor(tokenizer.encode(asked), device=self.device)
        embeds = self.get_input_embeddings()(ids)
        embeds[ids == self.img_context_token_id] = self.extract_feature(pixels).flatten(0, 1)
        answer = self.language_model.generate(
            inputs_embeds=embeds[None],
            attention_mask=torch.ones_like(ids)[None],
            generation_config=self.gen_config,
            stopping_criteria=self.stop_criteria,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
        tokens = answer.sequences[0]
        states = (
            torch.cat([step[-1][0, -1:] for step in answer.hidden_states[1:]]) if len(tokens) > 1 else None
        )
        masks = []
        for place in (tokens[:-1] == self.seg_token_idx).nonzero().flatten().tolist():
            embd = self.text_hidden_fcs(states[place : place + 1])
            state = self.grounding_encoder.get_sam2_embeddings(large)
            logits = self.grounding_encoder.language_embd_inference(state, [embd])
            logits = F.interpolate(
                logits, size=(image.height, image.width), mode="bilinear", align_corners=False
            )
            masks.append((logits[:, 0].sigmoid() > 0.5).cpu().numpy())
        return {"prediction": tokenizer.decode(tokens).strip(), "prediction_masks": masks}
