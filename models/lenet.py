"""LeNet-5 in torch, for 1 x 28 x 28 or 1 x 32 x 32 and ten classes.

LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition",
Proc. IEEE 86(11), 1998, figure 2, in the shape that papers on encrypted inference measure: C3 sees
all channels and the output is linear. Images of 28 x 28 are padded to 32 x 32.

    C1  conv 5 x 5     1 ->   6    32 x 32 -> 28 x 28       156 parameters
    S2  average pool 2 x 2                 -> 14 x 14
    C3  conv 5 x 5     6 ->  16            -> 10 x 10     2,416
    S4  average pool 2 x 2                 ->  5 x  5
    C5  conv 5 x 5    16 -> 120            ->  1 x  1    48,120
    F6  conv 1 x 1   120 ->  84                          10,164
    linear            84 ->  10                             850

61,706 in all, and 2 per channel more with `herpn`. C5 and F6 are what other texts write as fully
connected layers, with the same weights; as convolutions they have channels, as every activation
needs. One follows C1, C3, C5 and F6.

    python -m models.lenet export --activation square --out lenet5.onnx

writes the network with random weights.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models import torch_export
from models.activations import ACTIVATIONS, Activation, make_activation
from models.cryptofacenet import RANGE_LIMIT, calibration_images, draw_network

SIZES = (32, 28)
CLASSES = 10


class LeNet5(nn.Module):
    """N x 1 x size x size to N x 10 logits; `size` is 32 or 28."""

    def __init__(self, activation: Activation = "relu", size: int = 32) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"size must be 28 or 32, not {size}")
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=(32 - size) // 2),
            make_activation(activation, 6),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            make_activation(activation, 16),
            nn.AvgPool2d(2),
            nn.Conv2d(16, 120, 5),
            make_activation(activation, 120),
            nn.Conv2d(120, 84, 1),
            make_activation(activation, 84),
        )
        self.linear = nn.Linear(84, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.features(image).flatten(1))
        return logits


def build_random(activation: Activation, size: int, seed: int) -> LeNet5:
    """Return a network in eval mode with random weights, the same for the same arguments.

    Without batch norms, four squares in a row would let a white image overflow. So weights are
    scaled until the largest output of every convolution, on various images, is `RANGE_LIMIT`.
    """
    images = calibration_images(size, torch.Generator().manual_seed(seed))[:, :1]
    network = draw_network(lambda: LeNet5(activation, size), images, seed)
    if activation != "herpn":  # which is fitted to the weights as they are
        x = images
        with torch.no_grad():
            for layer in network.features:
                if isinstance(layer, nn.Conv2d):
                    excess = layer(x).abs().max() / RANGE_LIMIT
                    for parameter in layer.parameters():
                        parameter /= excess
                x = layer(x)
    return network


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0."""
    return torch_export.run_export(
        "python -m models.lenet",
        build_random,
        {"activation": ACTIVATIONS, "size": SIZES},
        lambda size, **_: (1, size, size),
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
