"""The activations that networks for comparison can have, chosen by name.

    relu      max(x, 0)
    herpn     the Hermite expansion of relu of `models.cryptofacenet`, which normalises its terms
    square    x^2, of Gilad-Bachrach et al., "CryptoNets", ICML 2016

relu is what a network was published with. The others are polynomials, so that a plan computes them
exactly; a network has to be trained with them.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from models.cryptofacenet import HerPN

Activation = Literal["relu", "herpn", "square"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


class Square(nn.Module):
    """x^2 of every element."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x


def make_activation(activation: Activation, channels: int) -> nn.Module:
    """Return the activation for N x channels x H x W; ValueError if there is none of that name."""
    if activation == "relu":
        return nn.ReLU()
    if activation == "herpn":
        return HerPN(channels)
    if activation == "square":
        return Square()
    raise ValueError(f"there is no activation {activation}, only {', '.join(ACTIVATIONS)}")
