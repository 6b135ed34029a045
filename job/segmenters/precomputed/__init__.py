"""Masks that another program made: probabilities in files, behind the segmenter protocol."""
