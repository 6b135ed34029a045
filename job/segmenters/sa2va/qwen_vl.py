"""Sa2VA on Qwen2.5-VL and Qwen3-VL: their own processor, vision tower and rotary positions."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from job.errors import InputError
from job.segmenters.sa2va.family import Family, Prefix, Prepared
from job.segmenters.sa2va.loading import Checkpoint
from job.segmenters.sa2va.reference import seen_features
from job.segmenters.sa2va.resize import Picture, Run, to_device

_GREEDY = {"repetition_penalty": (None, 1.0), "no_repeat_ngram_size": (None, 0)}


class QwenVL(Family):
    """Calls the modules of a `Sa2VAChatModelQwen`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self._processor = checkpoint.processor
        self._vision_info = getattr(sys.modules[type(self.model).__module__], "process_vision_info", None)
        self._inner = self.model.model.model
        self._settings = self.model.model.generation_config
        for name, plain in _GREEDY.items():
            found = getattr(self._settings, name, None)
            if found not in plain:
                raise InputError(
                    f"the checkpoint generates with {name} {found}: no reply can be expected beforehand",
                    advice='set segmenter.path to "generate"',
                )
        self._image_id = int(self.model.config.image_token_id)

    def prepare(self, picture_HWC: Picture) -> Prepared:
        """Run the checkpoint's processor, as `predict_forward` does."""
        image = Image.fromarray(picture_HWC)
        messages = self._messages("", image)
        images, videos = self._vision_info(messages) if self._vision_info else ([image], None)
        inputs = self._processor(
            text=[self._chat(messages)],
            images=images,
            videos=videos,
            padding=True,
            return_tensors="pt",
            min_pixels=self.model.min_pixels,
            max_pixels=self.model.max_pixels,
        )
        return Prepared(picture_HWC, dict(inputs), tuple(inputs["image_grid_thw"][0].tolist()))

    def tails(self, texts: Sequence[str]) -> list[list[int]]:
        """Return what follows the token behind the image: the prompt and the template's end."""
        tails = []
        for text in texts:
            ids = self.tokenizer(self._chat(self._messages(text, None))).input_ids
            tails.append(list(ids[ids.index(self._image_id) + 2 :]))
        return tails

    def read(self, batch: Sequence[Prepared], runs: Sequence[Run]) -> Prefix:
        """Run vision tower and language model over the processor's tokens, up to the one behind the image."""
        first = batch[0].vision["input_ids"][0]
        length = int((first == self._image_id).nonzero()[-1]) + 2
        inputs = {}
        for name in batch[0].vision:
            joined = torch.cat([one.vision[name] for one in batch])
            of_tokens = joined.shape[-1] == len(first) and name not in ("pixel_values", "image_grid_thw")
            inputs[name] = to_device(joined[:, :length] if of_tokens else joined, self.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.checkpoint.dtype)
        features: list[Tensor] = []
        with seen_features(self.checkpoint, features.append):
            output = self._inner(**inputs, use_cache=True)
        features_BLC = features[0].reshape(len(batch), -1, features[0].shape[-1])
        moved = int(self._inner.rope_deltas.reshape(-1)[0])
        layers = self._layers(output.past_key_values)
        return Prefix(layers, length, length + moved, features_BLC.float().mean(dim=1))

    def tokens(self, prepared: Prepared) -> int:
        """Return the tokens of the processor's prompt."""
        return int(prepared.vision["input_ids"].shape[-1])

    @property
    def stop_ids(self) -> frozenset[int]:
        """Those of the generation configuration."""
        ids = self._settings.eos_token_id
        return frozenset(ids if isinstance(ids, list) else [ids] if ids is not None else [])

    def _messages(self, text: str, image: Image.Image | None) -> list[dict[str, Any]]:
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        return [{"role": "user", "content": content}]

    def _chat(self, messages: list[dict[str, Any]]) -> str:
        chat: str = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return chat

    def _run(self, embeds_BQC: Tensor, cache: Any, positions_BQ: Tensor, mask: Tensor | None) -> Any:
        return self._inner.language_model(
            inputs_embeds=embeds_BQC,
            past_key_values=cache,
            attention_mask=mask,
            position_ids=positions_BQ.expand(3, -1, -1),  # time, height, width: equal for text
            use_cache=True,
        )
