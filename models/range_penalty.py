"""A term of a loss that keeps values of a network in a range, for what will compute with them.

Of every tensor x that is watched, with the limit L:

    mean( max(|x| - L, 0)^2 )
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle


class RangePenalty:
    """Sums, over one forward pass, by how much what is watched exceeds its limits."""

    def __init__(self) -> None:
        self.total = torch.zeros(())
        self._handles: list[RemovableHandle] = []

    def watch_input(
        self, module: nn.Module, limit: float, of: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Adds the first input of a module, or a function `of` it."""

        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._add(of(inputs[0]) if of else inputs[0], limit)

        self._handles.append(module.register_forward_pre_hook(add))

    def watch_output(self, module: nn.Module, limit: float) -> None:
        """Adds the output of a module."""

        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._add(output, limit)

        self._handles.append(module.register_forward_hook(add))

    def _add(self, x: Tensor, limit: float) -> None:
        self.total = self.total + functional.relu(x.abs() - limit).square().mean()

    def take(self) -> Tensor:
        """Return the sum since the last call."""
        total, self.total = self.total, torch.zeros(())
        return total

    def remove(self) -> None:
        """Ends watching."""
        for handle in self._handles:
            handle.remove()
