"""Networks of transformers that are asked by text, CLIPSeg and SAM 3, behind the segmenter protocol."""
