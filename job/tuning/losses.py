"""What supervised fine-tuning minimises: cross-entropy, soft Dice, and soft clDice for connectedness."""

from torch import Tensor
from torch.nn import functional as F

_SMOOTH = 1.0  # pixels: nothing of a truth without a vessel is 0/0
_THINNINGS = 6
"""Radius in pixels of the thickest vessel whose centre line soft skeletons find."""


def supervised_loss(logits_BHW: Tensor, truths_BHW: Tensor, cldice_weight: float) -> Tensor:
    """Return cross-entropy + soft Dice + `cldice_weight` x soft clDice; Dice is that of the whole batch.

    Since a crop of hardly any vessel would else count as much as one that is full of them.
    """
    truths = truths_BHW.to(logits_BHW.dtype)
    loss = F.binary_cross_entropy_with_logits(logits_BHW, truths) + soft_dice_loss(
        logits_BHW.sigmoid(), truths
    )
    if cldice_weight:
        loss = loss + cldice_weight * soft_cldice_loss(logits_BHW.sigmoid(), truths)
    return loss


def soft_dice_loss(probabilities_BHW: Tensor, truths_BHW: Tensor) -> Tensor:
    """Return 1 - 2 sum(p t) / (sum(p) + sum(t))."""
    shared = (probabilities_BHW * truths_BHW).sum()
    return 1 - (2 * shared + _SMOOTH) / (probabilities_BHW.sum() + truths_BHW.sum() + _SMOOTH)


def soft_cldice_loss(probabilities_BHW: Tensor, truths_BHW: Tensor) -> Tensor:
    """Return 1 - soft clDice (Shit et al., CVPR 2021, algorithms 1 and 2)."""
    skeleton, of_truth = soft_skeleton(probabilities_BHW), soft_skeleton(truths_BHW)
    precision = ((skeleton * truths_BHW).sum() + _SMOOTH) / (skeleton.sum() + _SMOOTH)
    sensitivity = ((of_truth * probabilities_BHW).sum() + _SMOOTH) / (of_truth.sum() + _SMOOTH)
    return 1 - 2 * precision * sensitivity / (precision + sensitivity)


def soft_skeleton(x_BHW: Tensor) -> Tensor:
    """Return what repeated opening of the eroded takes away: the centre line of soft masks."""
    x = x_BHW[:, None]
    skeleton = F.relu(x - _opened(x))
    for _ in range(_THINNINGS):
        x = _eroded(x)
        ridge = F.relu(x - _opened(x))
        skeleton = skeleton + F.relu(ridge - skeleton * ridge)
    return skeleton[:, 0]


def _eroded(x_B1HW: Tensor) -> Tensor:
    rows = -F.max_pool2d(-x_B1HW, (3, 1), 1, (1, 0))
    columns = -F.max_pool2d(-x_B1HW, (1, 3), 1, (0, 1))
    return rows.minimum(columns)


def _opened(x_B1HW: Tensor) -> Tensor:
    return F.max_pool2d(_eroded(x_B1HW), 3, 1, 1)
