"""`checks`: what must hold before learning, and what a learned candidate must show to ship."""

from pydantic import Field

from job.spec.section import Section


class ChecksSpec(Section):
    """Thresholds of the checks."""

    replay_tolerance: float = Field(1e-6, ge=0.0, le=1.0)
    """replay_identity: largest difference between the no-op through the environment and the baseline Dice."""
    min_mask_diversity: float = Field(0.01, ge=0.0, le=1.0)
    """mask_diversity: smallest mean pairwise 1 - Dice between the masks of an image's actions."""
    min_reward_spread: float = Field(0.1, ge=0.0, le=1.0)
    """reward_variance: smallest within-image deviation of the reward, as a share of true Dice's."""
    min_term_correlation: float = Field(0.0, ge=-1.0, le=1.0)
    """term_audit: smallest within-image rank correlation of a reward term with true Dice."""
    min_proxy_r2: float = Field(0.0, ge=-1.0, le=1.0)
    """proxy_quality: R2 of the reward network's scores must exceed it; 0 is always saying the mean."""
    min_swap_effect: float = Field(0.02, ge=0.0, le=1.0)
    """proxy_quality: smallest mean change of its scores when masks are shown with another image."""
    max_image_similarity: float = Field(0.75, gt=0.0, le=1.0)
    """split_leak: held-out images that resemble one to learn from more than this are copies of it."""
    power: float = Field(0.8, gt=0.05, lt=1.0)
    """oracle_gap: power at which the smallest detectable effect is stated."""
    min_gap_closed: float = Field(0.0, ge=-10.0, le=1.0)
    """gap_closed: smallest share of the gap between best fixed action and oracle that learning closes."""
    max_entropy: float = Field(0.9, gt=0.0, le=1.0)
    """learning: largest entropy of the policy, as a share of a uniform one's."""
    min_uplift: float = Field(0.0, ge=-1.0, le=1.0)
    """uplift: smallest mean Dice difference to the no-op on validation."""
    max_foreground_ratio: float = Field(1.5, ge=1.0, le=100.0)
    """reward_hacking: largest factor by which the foreground may grow or shrink away from the truth's."""
    max_seed_spread: float = Field(1.0, gt=0.0, le=100.0)
    """stability: largest deviation between seeds, in units of the mean gain over the best fixed action."""
