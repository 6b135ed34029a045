"""Choosers of actions and how they learn: fixed actions, ridge regression, and a policy trained by PPO."""
