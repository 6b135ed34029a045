"""All prompts of all images of a batch through the language model at once, behind the images' prefixes.

The prompts of an image lie side by side in one row: each sees the image's prefix and itself, never another
prompt, and its positions start at the prefix's end. So nothing is padded and no cache is repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from job.segmenters.sa2va.family import Family, Prefix


@dataclass(frozen=True)
class Packed:
    """The tokens of several prompts with the expected reply, side by side."""

    ids_Q: Tensor
    offsets_Q: Tensor
    """Positions of the tokens from the prefix's end on."""
    owners_Q: Tensor
    """Which prompt a token belongs to."""
    seg_P: Tensor
    """Where each prompt's [SEG] lies in the row."""
    checked_PR: Tensor
    """Places whose next token the model is asked about."""
    expected_R: Tensor
    """What it must say there; -1: any token that ends a reply."""
    stops: Tensor
    """The tokens that end a reply."""


@dataclass(frozen=True)
class Answers:
    """What the language model says of a batch of images and all prompts."""

    seg_BPC: Tensor
    """Its state at [SEG], were the reply the expected one."""
    agrees_BP: Tensor
    """True where the model would give that reply itself, so that the state is exact."""


def pack(family: Family, tails: Sequence[Sequence[int]], reply: Sequence[int], *, whole: bool) -> Packed:
    """Lay prompts side by side. With `whole` the reply is checked to its end, else up to [SEG]."""
    place = list(reply).index(family.seg_id)
    known = list(reply) if whole else list(reply[: place + 1])
    rows = [[*tail, *known] for tail in tails]
    starts = [sum(len(row) for row in rows[:p]) for p in range(len(rows))]
    begins = [start + len(tail) for start, tail in zip(starts, tails, strict=True)]
    expected = [*known, -1] if whole else known

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, device=family.device)

    return Packed(
        ids_Q=tensor([token for row in rows for token in row]),
        offsets_Q=tensor([place for row in rows for place in range(len(row))]),
        owners_Q=tensor([p for p, row in enumerate(rows) for _ in row]),
        seg_P=tensor([begin + place for begin in begins]),
        checked_PR=tensor([begin - 1 + r for begin in begins for r in range(len(expected))]).view(
            len(rows), -1
        ),
        expected_R=tensor(expected),
        stops=tensor(sorted(family.stop_ids)),
    )


def ask(family: Family, prefix: Prefix, packed: Packed) -> Answers:
    """Run packed prompts behind the prefixes of a batch; only where replies are checked with the head."""
    hidden_BQC, _ = family.follow(prefix, packed.ids_Q, packed.offsets_Q, _seen(prefix.length, packed))
    said_BPR = family.vocabulary_logits(hidden_BQC[:, packed.checked_PR]).argmax(dim=-1)
    ends_BPR = (said_BPR[..., None] == packed.stops).any(dim=-1)
    agrees_BPR = torch.where(packed.expected_R < 0, ends_BPR, said_BPR == packed.expected_R)
    return Answers(hidden_BQC[:, packed.seg_P], agrees_BPR.all(dim=-1))


@dataclass(frozen=True)
class Reply:
    """What the model says of its own accord to one pair."""

    text: str
    seg_SC: Tensor
    """Its state at each [SEG] of the reply but one that is the last token, which has none."""


def generate(family: Family, prefix: Prefix, tail: Sequence[int], max_new_tokens: int) -> Reply:
    """Continue one image's prefix (`Prefix.row`) with a prompt, taking the likeliest token each time.

    Stops as `predict_forward` does: at a token or a text that ends a reply, or after `max_new_tokens`.
    """
    tokens: list[int] = []
    states: list[Tensor] = []
    ids = torch.tensor(list(tail), device=family.device)
    while len(tokens) < max_new_tokens and not _ended(family, tokens):
        offsets = torch.arange(len(ids), device=family.device)
        hidden_1QC, prefix = family.follow(prefix, ids, offsets, None)
        if tokens and tokens[-1] == family.seg_id:
            states.append(hidden_1QC[0, -1])
        tokens.append(int(family.vocabulary_logits(hidden_1QC[0, -1]).argmax()))
        ids = torch.tensor(tokens[-1:], device=family.device)
    width = prefix.embedding_BD.shape[-1]
    seg_SC = torch.stack(states) if states else torch.zeros(0, width, device=family.device)
    return Reply(family.tokenizer.decode(tokens, skip_special_tokens=False).strip(), seg_SC)


def _ended(family: Family, tokens: list[int]) -> bool:
    if not tokens:
        return False
    if tokens[-1] in family.stop_ids:
        return True
    if not family.stop_words:
        return False
    text: str = family.tokenizer.decode(tokens).replace("\r", "").replace("\n", "")
    return text.endswith(family.stop_words)


def _seen(length: int, packed: Packed) -> Tensor:
    """Return by True which tokens `[Q, length + Q]` each of the packed ones sees."""
    Q = len(packed.ids_Q)
    order_Q = torch.arange(Q, device=packed.ids_Q.device)
    own_QQ = (packed.owners_Q[:, None] == packed.owners_Q[None]) & (order_Q[:, None] >= order_Q[None])
    prefix_QL = torch.ones(Q, length, dtype=torch.bool, device=own_QQ.device)
    return torch.cat([prefix_QL, own_QQ], dim=1)
