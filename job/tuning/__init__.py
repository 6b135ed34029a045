"""Phases that change a segmenter's weights: supervised (`sft`) and by reward (`grpo`), both guarded."""
