"""Sa2VA on InternVL: InternViT tiles, a projector, and Qwen2, Qwen3 or InternLM2."""

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from job.errors import InputError
from job.segmenters.sa2va.family import Family, Layers, Prefix, Prepared, normalised
from job.segmenters.sa2va.loading import Checkpoint
from job.segmenters.sa2va.prompts import IMAGE
from job.segmenters.sa2va.resize import Crops, Noted, Picture, Recipe, Run

_GREYS = 256


class InternVL(Family):
    """Calls the modules of a `Sa2VAChatModel`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self._tiles_of: Any = getattr(sys.modules[type(self.model).__module__], "dynamic_preprocess", None)
        if self._tiles_of is None:
            raise InputError(
                "the checkpoint's code offers no dynamic_preprocess",
                advice='set segmenter.path to "generate", or fetch the code of a released Sa2VA',
            )
        self._recipe = lru_cache(maxsize=256)(self._noted_tiles)
        self._tiles = Crops(self._own_tiles, self._recipe)
        self._table_C256 = self._normalisation()
        before, behind = self._split(IMAGE)[0][:-1], self._split(IMAGE)[0][-1:]
        # On the device from the start: moving them there would wait for it.
        self._around = [torch.tensor(ids, device=self.device) for ids in (before, behind)]
        self._decoder = self.model.language_model.get_decoder()
        self._own_cache = checkpoint.language_model == "InternLM2ForCausalLM"
        if self._own_cache:
            _take_prepared_masks(self._decoder)

    def prepare(self, picture_HWC: Picture) -> Prepared:
        """Find out how many tiles the image is cut into."""
        recipe = self._recipe(picture_HWC.shape[:2])
        return Prepared(picture_HWC, {}, (len(recipe or self._own_tiles(picture_HWC)),))

    def tails(self, texts: Sequence[str]) -> list[list[int]]:
        """Return what follows `</img>`: the prompt and the template's end."""
        return [self._split(text)[1] for text in texts]

    def read(self, batch: Sequence[Prepared], runs: Sequence[Run]) -> Prefix:
        """Run InternViT over all tiles of the batch at once, then the language model up to `</img>`."""
        tiles_NHWC = self._tiles.make(runs, on_device=self.device.type == "cuda").flatten(0, 1)
        features_NLC = self.model.extract_feature(normalised(tiles_NHWC, self._table_C256))
        features_BLC = features_NLC.reshape(len(batch), -1, features_NLC.shape[-1])
        start_LC, end_LC = (self.model.get_input_embeddings()(ids) for ids in self._around)
        rows = (
            start_LC.expand(len(batch), -1, -1),
            features_BLC.to(start_LC),
            end_LC.expand(len(batch), -1, -1),
        )
        embeds_BLC = torch.cat(rows, dim=1)
        length = embeds_BLC.shape[1]
        positions_BL = torch.arange(length, device=self.device).expand(len(batch), -1)
        output = self._run(embeds_BLC, None, positions_BL, None)
        embedding_BD = features_BLC.float().mean(dim=1)
        return Prefix(self._layers(output.past_key_values), length, length, embedding_BD)

    def tokens(self, prepared: Prepared) -> int:
        """Return the tokens of the image's tiles."""
        return int(prepared.group[0] * self.model.patch_token)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokenizer's end of a text, and the template's stop words that are one token."""
        ids = {self.tokenizer.eos_token_id}
        for word in self.stop_words:
            tokens = self.tokenizer.encode(word, add_special_tokens=False)
            ids |= set(tokens) if len(tokens) == 1 else set()
        return frozenset(ids)

    @property
    def stop_words(self) -> tuple[str, ...]:
        """The template's."""
        return tuple(self.model.template.get("STOP_WORDS", ()))

    def _own_tiles(self, picture_HWC: Picture) -> Picture:
        """Return the tiles `[T, h, w, 3]` that the checkpoint's own code makes."""
        return np.stack([np.asarray(tile) for tile in self._cut(Image.fromarray(picture_HWC))])

    def _noted_tiles(self, size: tuple[int, int]) -> Recipe | None:
        try:
            return tuple(tile.step for tile in self._cut(Noted((size[1], size[0]))))
        except (AttributeError, TypeError, ValueError):
            return None  # it does more than resize and cut

    def _cut(self, image: Any) -> Any:
        model = self.model
        return self._tiles_of(
            image, model.min_dynamic_patch, model.max_dynamic_patch, model.image_size, model.use_thumbnail
        )

    def _split(self, text: str) -> tuple[list[int], list[int]]:
        """Return the tokens before the image with the one behind it, and those after that."""
        model = self.model
        shown = text.replace(IMAGE, f"{model.IMG_START_TOKEN}{model.IMG_CONTEXT_TOKEN}{model.IMG_END_TOKEN}")
        asked = model.template["INSTRUCTION"].format(input=shown, round=1, bot_name=model.bot_name)
        ids = self.tokenizer.encode(asked)
        place = ids.index(model.img_context_token_id)
        return [*ids[:place], ids[place + 1]], ids[place + 2 :]

    def _run(self, embeds_BQC: Tensor, cache: Any, positions_BQ: Tensor, mask: Tensor | None) -> Any:
        # return_dict: InternLM2's own code asks the configuration for it, which transformers 5 renamed.
        named = {"past_key_values": cache, "attention_mask": mask, "position_ids": positions_BQ}
        return self._decoder(inputs_embeds=embeds_BQC, use_cache=True, return_dict=True, **named)

    def _cache(self, layers: Layers) -> Any:
        return layers if self._own_cache else super()._cache(layers)

    def _layers(self, cache: Any) -> Layers:
        return tuple(cache) if self._own_cache else super()._layers(cache)

    def _normalisation(self) -> Tensor:
        """Return what the checkpoint's transformation makes of each 8-bit value: `[3, 256]` in its dtype."""
        size = self.model.image_size
        greys = np.zeros((size, size, 3), dtype=np.uint8)
        greys.reshape(-1, 3)[:_GREYS] = np.arange(_GREYS, dtype=np.uint8)[:, None]
        table: Tensor = self.model.transformer(Image.fromarray(greys)).flatten(1)[:, :_GREYS]
        return table.to(self.device, self.checkpoint.dtype)


def _take_prepared_masks(decoder: Any) -> None:
    """Let InternLM2's own code take a whole mask: by itself it makes one of which tokens are padding."""
    prepare = decoder._prepare_decoder_attention_mask
    if getattr(prepare, "takes_prepared_masks", False):
        return

    def prepared(mask: Tensor, *others: Any, **named: Any) -> Any:
        return mask if mask is not None and mask.dim() == 4 else prepare(mask, *others, **named)

    prepared.takes_prepared_masks = True  # type: ignore[attr-defined]
    decoder._prepare_decoder_attention_mask = prepared
