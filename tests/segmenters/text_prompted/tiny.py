"""Makes tiny CLIPSeg and SAM 3 checkpoints with random weights, in folders as they are published."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    PreTrainedTokenizerFast,
    Sam3Config,
    Sam3Model,
)

WORDS = ["segment", "the", "vessels", "retinal", "blood", "please", "major", "fine", "thick", "arteries"]
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
SIDE = {"clipseg": 32, "sam3": 56}


def make(folder: Path, kind: Literal["clipseg", "sam3"], seed: int = 0) -> Path:
    """Write a checkpoint of a kind; returns the folder."""
    words = tokenizer()
    torch.manual_seed(seed)
    model = _clipseg(len(words)) if kind == "clipseg" else _sam3(len(words))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Initial values are such that every image and prompt would give about the same logits.
            wide = parameter.dim() >= 2
            scale = 1.5 / parameter[0].numel() ** 0.5 if wide else 0.1
            parameter.copy_(torch.randn(parameter.shape) * scale + (not wide and name.endswith("weight")))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    document = {
        "size": {"height": SIDE[kind], "width": SIDE[kind]}, "resample": 2, "rescale_factor": 1 / 255,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(document))
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words between a token of start and one of end, as CLIP's is."""
    vocabulary = {word: number for number, word in enumerate(["<unk>", *WORDS, BOS, EOS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.normalizer = normalizers.Lowercase()
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(token, vocabulary[token]) for token in (BOS, EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", bos_token=BOS, eos_token=EOS, pad_token=EOS
    )


def _text(n_words: int, **sizes: int) -> dict[str, Any]:
    layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"bos_token_id": n_words - 2, "eos_token_id": n_words - 1, "pad_token_id": n_words - 1}
    return {"vocab_size": n_words, **layers, **tokens, **sizes}


def _clipseg(n_words: int) -> CLIPSegForImageSegmentation:
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = CLIPSegConfig(
        vision_config=vision, text_config=_text(n_words, max_position_embeddings=16), projection_dim=24,
        extract_layers=[1, 2, 3], reduce_dim=16, decoder_num_attention_heads=2, decoder_intermediate_size=24,
        conditional_layer=0,
    )  # fmt: skip
    return CLIPSegForImageSegmentation(config).eval()


def _sam3(n_words: int) -> Sam3Model:
    backbone = {
        "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "window_size": 2,
        "global_attn_indexes": [1], "pretrain_image_size": 28,
    }  # fmt: skip
    detr = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = Sam3Config(
        vision_config={
            "backbone_config": backbone, "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config={
            "model_type": "clip_text_model", "projection_dim": 16,
            **_text(n_words, max_position_embeddings=32),
        },
        geometry_encoder_config=detr, detr_encoder_config=detr,
        detr_decoder_config={**detr, "num_queries": 4},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2, "num_upsampling_stages": 2},
    )  # fmt: skip
    return Sam3Model(config).eval()
