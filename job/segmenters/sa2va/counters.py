"""What happened while a model answered, counted: for events and for advice."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counters:
    """Counts over the life of a segmenter. A pair is an image with a prompt."""

    pairs: int = 0
    replies_without_seg: int = 0
    """Pairs that the model answered without [SEG], or with it as the last token: all background."""
    replies_with_several_seg: int = 0
    """Pairs answered with more than one [SEG], as far as replies were read to their end."""
    fallback_pairs: int = 0
    """Pairs of the path `shared` for which the model would not have given the expected reply."""
    other_replies: Counter[str] = field(default_factory=Counter)
    """What it gave instead: where one reply rules, `reply` should be set to it."""
