"""A batch job that improves, judges and ships promptable segmentation models."""

__version__ = "0.1.0"
