"""A VGG-11-class network for CIFAR in torch: 3 x 32 x 32 to ten classes.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR
2015, table 1, column A, for small images: a batch norm behind every convolution, and as nothing of
the image is left after five pools, one linear layer for the three fully connected ones.

    conv   3 ->  64                  32 x 32, then pool
    conv  64 -> 128                  16 x 16, then pool
    conv 128 -> 256, 256 -> 256       8 x  8, then pool
    conv 256 -> 512, 512 -> 512       4 x  4, then pool
    conv 512 -> 512, 512 -> 512       2 x  2, then pool
    linear 512 -> 10

with 3 x 3 convolutions without a bias, each followed by a batch norm and ReLU, and pools of 2 x 2:
9,228,362 parameters. The published network takes maxima; an average is linear and costs an
encrypted evaluation nothing, so it is the default, and `--pool max` what was published.

    python -m models.vgg export --pool average --out vgg11.onnx

writes the network with random weights; `models.train_images` trains it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models import torch_export
from models.cryptofacenet import calibration_images, draw_network
from models.images.dataset import CLASSES, SIDE

Pool = Literal["average", "max"]
POOLS: tuple[Pool, ...] = get_args(Pool)
STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class VGG11(nn.Module):
    """N x 3 x 32 x 32 to N x 10 logits; ValueError for a pool that is not in `POOLS`."""

    def __init__(self, pool: Pool = "average") -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool must be {' or '.join(POOLS)}, not {pool}")
        layers: list[nn.Module] = []
        channels = 3
        for stage in STAGES:
            for width in stage:
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                channels = width
            layers.append(nn.AvgPool2d(2) if pool == "average" else nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.features(image).flatten(1))
        return logits


def build_random(pool: Pool, seed: int) -> VGG11:
    """Return a network in eval mode with random weights, the same for the same arguments."""
    images = calibration_images(SIDE, torch.Generator().manual_seed(seed))
    return draw_network(lambda: VGG11(pool), images, seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0."""
    return torch_export.run_export(
        "python -m models.vgg",
        build_random,
        {"pool": POOLS},
        lambda **_: (3, SIDE, SIDE),
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
