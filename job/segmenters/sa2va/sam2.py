"""SAM 2's image encoder once an image, and its mask decoder for many [SEG] states of many images at once.

The model's own `_forward_sam_heads` does the same for one mask, and more: it encodes an absent point prompt,
enlarges logits to 1024 x 1024 and makes a pointer for tracking. What is constant is computed once here, and
what nobody asks for not at all.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from job.segmenters.sa2va.family import normalised
from job.segmenters.sa2va.loading import Checkpoint
from job.segmenters.sa2va.resize import Crops, Picture, Recipe, Run

_MASKS_AT_ONCE = 64


@dataclass(frozen=True)
class ImageFeatures:
    """What the mask decoder needs of a batch of images."""

    embedding_BCHW: Tensor
    high_resolution: tuple[Tensor, ...]


class Sam2:
    """The grounding encoder of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._own_code = checkpoint.model.extra_image_processor
        self._encoder = checkpoint.model.grounding_encoder
        self._model = self._encoder.sam2_model
        self._to_prompt = checkpoint.model.text_hidden_fcs
        self._resized = Crops(self._own_picture, self._recipe)
        self._device = checkpoint.device
        self._dtype = checkpoint.dtype
        greys = torch.arange(256, dtype=torch.float32).expand(3, 1, 256).to(checkpoint.dtype)
        self._table_C256 = self._encoder.preprocess_image(greys)[:, 0].to(self._device, self._dtype)
        self.size: tuple[int, int] = tuple(self._model.sam_prompt_encoder.mask_input_size)
        """Height and width of the logits."""
        with torch.inference_mode(), self._precision():
            points = torch.zeros(1, 1, 2, device=self._device)
            labels = -torch.ones(1, 1, dtype=torch.int32, device=self._device)
            prompt = self._model.sam_prompt_encoder(points=(points, labels), boxes=None, masks=None)
            self._no_points_1NC, self._no_mask_1CHW = prompt
            self._places_1CHW = self._model.sam_prompt_encoder.get_dense_pe()

    def encode(self, runs: Sequence[Run]) -> ImageFeatures:
        """Run the image encoder over the pictures of a batch."""
        pixels_BHWC = self._resized.make(runs, on_device=self._device.type == "cuda")[:, 0]
        images_BCHW = normalised(pixels_BHWC, self._table_C256)
        with self._precision():
            levels = self._model.forward_image(images_BCHW)["backbone_fpn"]
            levels = levels[-self._model.num_feature_levels :]
            # What tracking adds to a first frame, which has no memory to look at.
            embedding_BCHW = levels[-1] + self._model.no_mem_embed.reshape(1, -1, 1, 1)
        return ImageFeatures(embedding_BCHW, tuple(levels[:-1]))

    def decode(self, features: ImageFeatures, owners_M: Tensor, seg_MC: Tensor) -> Tensor:
        """Return float32 logits `[M, h, w]` for M states at [SEG], each of the image that `owners_M` names.

        Of the three masks that SAM 2 offers, the one that it expects the best IoU of.
        """
        parts = []
        for first in range(0, len(seg_MC), _MASKS_AT_ONCE):
            owners, seg = (one[first : first + _MASKS_AT_ONCE] for one in (owners_M, seg_MC))
            parts.append(self._decode(features, owners, self._to_prompt(seg)))
        return torch.cat(parts) if parts else torch.zeros(0, *self.size, device=self._device)

    def _decode(self, features: ImageFeatures, owners_M: Tensor, prompt_MC: Tensor) -> Tensor:
        count = len(owners_M)
        with self._precision():
            sparse_MNC = torch.cat([self._no_points_1NC.expand(count, -1, -1), prompt_MC[:, None]], dim=1)
            masks_MKHW, ious_MK, _, _ = self._model.sam_mask_decoder(
                image_embeddings=features.embedding_BCHW[owners_M],
                image_pe=self._places_1CHW,
                sparse_prompt_embeddings=sparse_MNC,
                dense_prompt_embeddings=self._no_mask_1CHW.expand(count, -1, -1, -1),
                multimask_output=True,
                repeat_image=False,
                high_res_features=[level[owners_M] for level in features.high_resolution],
            )
        best_M = ious_MK.argmax(dim=-1)
        best_MHW: Tensor = masks_MKHW[torch.arange(count, device=best_M.device), best_M].float()
        return best_MHW

    def _own_picture(self, picture_HWC: Picture) -> Picture:
        made: Picture = self._own_code.apply_image(picture_HWC)[None]
        return made

    def _recipe(self, size: tuple[int, int]) -> Recipe:
        large = int(self._model.image_size)
        return (((large, large), None),)

    def _precision(self) -> AbstractContextManager[object]:
        # As predict_forward: bfloat16 wherever it runs on a GPU, whatever the dtype of the weights.
        reduced = self._device.type == "cuda" or self._dtype != torch.float32
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=reduced)
