"""A grounding encoder of a few thousand weights, with the call surface of SAM 2 in Sa2VA."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

SIZE, WIDTH = 64, 8


class PromptEncoder(nn.Module):
    """Embeds an absent point as two tokens and an absent mask as one vector everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.no_point = nn.Parameter(torch.randn(2, WIDTH))
        self.no_mask = nn.Parameter(torch.randn(WIDTH))
        self.place = nn.Parameter(torch.randn(1, WIDTH, 4, 4))
        self.mask_input_size = (16, 16)

    def get_dense_pe(self) -> Tensor:
        return self.place

    def forward(self, points: Any, boxes: None, masks: None) -> tuple[Tensor, Tensor]:
        count = points[0].shape[0]
        sparse = self.no_point + points[0].sum() * 0
        dense = self.no_mask.reshape(1, -1, 1, 1).expand(count, -1, 4, 4)
        return sparse.expand(count, -1, -1), dense


class MaskDecoder(nn.Module):
    """Three masks: pixels against mixtures of the prompt's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3 * WIDTH, 3 * WIDTH)
        self.quality = nn.Linear(3 * WIDTH, 3)
        self.up0, self.up1 = nn.Conv2d(2, WIDTH, 1), nn.Conv2d(4, WIDTH, 1)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        repeat_image: bool,
        high_res_features: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        assert multimask_output
        assert not repeat_image
        tokens = torch.tanh(sparse_prompt_embeddings.flatten(1))
        kernels = self.mix(tokens).unflatten(1, (3, WIDTH))
        ground = image_embeddings + dense_prompt_embeddings + image_pe
        pixels = F.interpolate(ground, scale_factor=4.0, mode="bilinear") + self.up0(high_res_features[0])
        pixels = pixels + F.interpolate(self.up1(high_res_features[1]), scale_factor=2.0)
        masks = torch.einsum("mkc,mchw->mkhw", kernels, pixels)
        return masks, self.quality(tokens).sigmoid(), tokens, tokens[:, :1]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, WIDTH, 4, 4)


class Tracker(nn.Module):
    """The part of SAM 2 that Sa2VA calls `sam2_model`."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = Encoder()
        self.level0, self.level1 = nn.Conv2d(WIDTH, 2, 1), nn.Conv2d(WIDTH, 4, 2, 2)
        self.top = nn.Conv2d(WIDTH, WIDTH, 4, 4)
        self.no_mem_embed = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.sam_prompt_encoder = PromptEncoder()
        self.sam_mask_decoder = MaskDecoder()
        self.image_size = SIZE
        self.num_feature_levels = 3

    def forward_image(self, images: Tensor) -> dict[str, list[Tensor]]:
        seen = torch.tanh(self.image_encoder.trunk(images))
        return {"backbone_fpn": [self.level0(seen), self.level1(seen), self.top(seen)]}

    def _forward_sam_heads(
        self, features: Tensor, high_res: list[Tensor], language_embd: Tensor
    ) -> tuple[Any, ...]:
        points = (torch.zeros(1, 1, 2), -torch.ones(1, 1, dtype=torch.int32))
        sparse, dense = self.sam_prompt_encoder(points=points, boxes=None, masks=None)
        masks, ious, *_ = self.sam_mask_decoder(
            image_embeddings=features,
            image_pe=self.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=torch.cat([sparse, language_embd], dim=1),
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=high_res,
        )
        best = masks[:, int(ious.argmax())][:, None].float()
        large = F.interpolate(best, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        return masks, None, ious, best, large


class SAM2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sam2_model = Tracker()
        self.hidden_dim = WIDTH

    def preprocess_image(self, image: Tensor) -> Tensor:
        image = image / 255.0
        image -= torch.tensor([0.4, 0.5, 0.6], dtype=torch.bfloat16)[:, None, None]
        return image

    def get_sam2_embeddings(self, images: Tensor) -> dict[str, Tensor]:
        return {"images": images}

    def language_embd_inference(self, state: dict[str, Tensor], language_embd: list[Tensor]) -> Tensor:
        print("looking for", language_embd[0].shape)  # noqa: T201
        for _ in tqdm([0]):
            *high_res, top = self.sam2_model.forward_image(state["images"])["backbone_fpn"]
            features = top + self.sam2_model.no_mem_embed.reshape(1, -1, 1, 1)
        return self.sam2_model._forward_sam_heads(features, high_res, language_embd[0][:, None])[4]
