"""How the matrix descends: the optimiser and its learning rate (paper, section 4)."""

import torch
from torch import Tensor

from sat3d.settings import TrainSettings


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Flat for ``flat_share`` of the steps, then a straight line that reaches 0 after the last."""
    flat = settings.flat_share * settings.steps
    if step < flat:
        return settings.lr
    return settings.lr * (settings.steps - step) / max(settings.steps - flat, 1)


def make_optimiser(matrix: Tensor, settings: TrainSettings) -> torch.optim.Optimizer:
    """Ranger on the matrix: rectified Adam with lookahead and gradient centralisation."""
    from pytorch_optimizer import Ranger

    # Without degenerated_to_sgd this implementation climbs during its first five steps, where the
    # rectification is not defined yet; the original takes plain momentum steps there.
    optimiser: torch.optim.Optimizer = Ranger(
        [matrix],
        lr=settings.lr,
        betas=settings.betas,
        alpha=0.5,
        k=6,
        n_sma_threshold=5,
        degenerated_to_sgd=True,
        eps=settings.epsilon,
        use_gc=settings.gradient_centralization,
    )
    return optimiser
