"""Dataset folders, decoding, splits, raw features, and the synthetic fundus generator."""
