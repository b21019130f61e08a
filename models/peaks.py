"""A penalty on the largest values in a network, which a mean over all values would not see."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Measure = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


class PeakPenalty:
    """Context in which modules are watched; `total` is the penalty then.

    With z_l what `measure` makes of the module l, its inputs and its output, N x channels x H x W,

        sum over l of max(0, max |z_l| - limit),    averaged over the N images.

    Args:
        modules: what to watch.
        limit: what |z| may reach at no cost.
        measure: gives z.
    """

    def __init__(self, modules: Sequence[nn.Module], limit: float, measure: Measure) -> None:
        self.total = torch.zeros(())
        self.modules, self.limit, self.measure = modules, limit, measure
        self._watches: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        self.total = torch.zeros(())
        self._watches = [module.register_forward_hook(self._add) for module in self.modules]

    def __exit__(self, *_: object) -> None:
        for watch in self._watches:
            watch.remove()

    def _add(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        z = self.measure(module, inputs, output)
        excess = (z.abs().amax(dim=(1, 2, 3)) - self.limit).clamp_min(0)
        self.total = self.total.to(z.device) + excess.mean()
