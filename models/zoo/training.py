"""Training of the zoo's networks, so that their activations stay in a narrow range.

The loss is cross-entropy with smoothed labels (of the autoencoder the mean squared error) plus

    RANGE_PENALTY * sum over activations of mean( max(|x| - RANGE_LIMIT, 0)^2 )

with x what goes into the ReLU, SiLU, GELU or softmax, and, where there are layer norms, the same of
the logarithm of the variance of what they divide by its root. Both are what a polynomial has to be
precise on.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

RANGE_LIMIT = 1.5
VARIANCE_LIMIT = 0.7
RANGE_PENALTY = 100.0
LABEL_SMOOTHING = 0.1
ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.GELU, nn.Softmax)

_log = logging.getLogger(__name__)


class RangePenalty:
    """Sums, over one forward pass, by how much the inputs of activations exceed their limits."""

    def __init__(self, network: nn.Module, limit: float = RANGE_LIMIT) -> None:
        self.limit = limit
        self.total = torch.zeros(())
        self._handles = []
        for module in network.modules():
            if isinstance(module, ACTIVATIONS):
                self._handles.append(module.register_forward_pre_hook(self._add_range))
            elif isinstance(module, nn.LayerNorm):
                self._handles.append(module.register_forward_pre_hook(self._add_variance))

    def _add_range(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        excess = functional.relu(inputs[0].abs() - self.limit)
        self.total = self.total + excess.square().mean()

    def _add_variance(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        logarithm = inputs[0].var(dim=-1, unbiased=False).log()
        self.total = self.total + functional.relu(logarithm.abs() - VARIANCE_LIMIT).square().mean()

    def take(self) -> Tensor:
        """Return the sum since the last call."""
        total, self.total = self.total, torch.zeros(())
        return total

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def train_network(
    network: nn.Module,
    samples: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    *,
    seed: int,
    epochs: int,
    rate: float = 1e-2,
    range_limit: float = RANGE_LIMIT,
    batch_size: int = 64,
) -> nn.Module:
    """Trains in place and returns the network in eval mode; the same seed gives the same weights.

    Args:
        network: its weights are where training starts.
        samples: n x the shape of an input.
        labels: n class numbers; None: the network is to give its input back.
        seed: of the order of samples.
        epochs: passes over all samples.
        rate: the largest learning rate.
        range_limit: of the inputs of activations.
        batch_size: of a step.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(samples)
    y = None if labels is None else torch.from_numpy(labels)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    )
    steps = -(-len(x) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=rate, epochs=epochs, steps_per_epoch=steps
    )
    penalty = RangePenalty(network, range_limit)
    network.train()
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(x), generator=generator).split(batch_size):
            output = network(x[index])
            if y is None:
                loss = functional.mse_loss(output, x[index])
            else:
                loss = functional.cross_entropy(output, y[index], label_smoothing=LABEL_SMOOTHING)
            optimiser.zero_grad()
            (loss + RANGE_PENALTY * penalty.take()).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        _log.info("epoch %d of %d: loss %.4f", epoch + 1, epochs, total / len(x))
    penalty.remove()
    return network.eval()
