"""The embedded network, or a user's own checkpoint of its kind, with weights that may learn."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from job.segmenters.promptable_unet import checkpoint_folder, content
from job.segmenters.promptable_unet.adapter import encode
from job.segmenters.promptable_unet.modelling import MODEL_TYPE, PromptableUNet
from job.storage.local import write_atomic


class TrainablePromptableUNet:
    """A `PromptableUNet` checkpoint behind the protocol `Trainable`; computes in float32 on one device.

    Normalisation over the batch follows `train`: while training it takes the batch's statistics and moves
    the running ones, otherwise those stay as they are, and gradients pass through all the same.
    """

    def __init__(
        self,
        network: PromptableUNet,
        tokenizer: Tokenizer,
        tokenizer_files: Mapping[str, bytes],
        device: str,
    ) -> None:
        network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = network.eval().requires_grad_(True)
        self._tokenizer = tokenizer
        # A tokenizer's own way to save itself writes down how it was last used.
        self._tokenizer_files = tokenizer_files
        self._device = torch.device(device)

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Return all of the network's parameters, by name."""
        return dict(self._network.named_parameters())

    def state(self) -> dict[str, Tensor]:
        """Return a copy, on the CPU, of parameters and of the running statistics of normalisation."""
        return {
            name: values.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, values in self._network.state_dict().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned; RuntimeError when it is that of another network."""
        self._network.load_state_dict(dict(state))

    def train(self, mode: bool) -> None:
        """Let normalisation take the batch's statistics, or the running ones."""
        self._network.train(mode)

    def logits(self, pixels_B3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return float32 logits `[B, P, H, W]` of uint8 RGB images under every prompt, with a gradient."""
        tokens_PT = encode(self._tokenizer, prompts, self._network.config.pad_token_id)
        output = self._network(pixels_B3HW.to(self._device), tokens_PT.to(self._device))
        logits: Tensor = output.logits.float()
        return logits

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors (float32) and the tokenizer's files."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"model_type": MODEL_TYPE, **asdict(self._network.config)}
        write_atomic(folder / content.CONFIG, json.dumps(config, indent=2).encode())
        for name, words in self._tokenizer_files.items():
            write_atomic(folder / name, words)
        save_file(self.state(), folder / content.WEIGHTS, {"format": "pt"})
        (folder / content.WEIGHTS).chmod(0o644)  # safetensors gives it to its owner alone


def open_trainable(folder: Path, device: str) -> TrainablePromptableUNet:
    """Open a checkpoint folder for training; raises what `PromptableUNetSegmenter.load` does."""
    network, tokenizer = checkpoint_folder.load(folder)
    names = (content.TOKENIZER, content.TOKENIZER_CONFIG)
    return TrainablePromptableUNet(
        network, tokenizer, {name: (folder / name).read_bytes() for name in names}, device
    )
