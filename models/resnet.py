"""ResNet-20, 32, 44, 56 and 110 for CIFAR in torch: 3 x 32 x 32 to ten classes.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2. With n
blocks in each stage (3, 5, 7, 9 or 18) there are 6 n + 2 layers with weights:

    conv 3 x 3     3 -> 16    32 x 32
    n blocks            16    32 x 32
    n blocks            32    16 x 16, the first with stride 2
    n blocks            64     8 x  8, the first with stride 2
    average pool 8 x 8, linear 64 -> 10

    block(x) = act(conv_2(act(conv_1(x))) + shortcut(x))

with 3 x 3 convolutions. The shortcut is the identity; where the shape changes, every second row and
column of it, with channels of zeros appended (option A, without parameters). In all

    depth             20         32         44         56          110
    parameters   269,722    464,154    658,586    853,018    1,727,962
    the paper       0.27       0.46       0.66       0.85          1.7 million

With `relu` every convolution has a batch norm, in a block also before the addition. A polynomial
needs its input in a known range, and a sum is in none: with `square` the batch norm is part of
`act`, behind the addition, and `herpn` normalises itself. All have as many parameters.

    python -m models.resnet export --depth 20 --activation herpn --out resnet20.onnx

writes the network with random weights; `models.train_images` trains those with relu.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import torch_export
from models.activations import ACTIVATIONS, Activation, make_activation
from models.cryptofacenet import calibration_images, draw_network

DEPTHS = (20, 32, 44, 56, 110)
STAGES = (16, 32, 64)
SIDE = 32
CLASSES = 10


def convolve(
    activation: Activation, channels_in: int, channels_out: int, stride: int = 1
) -> nn.Sequential:
    """Return a 3 x 3 convolution, with its batch norm if that is not the activation's."""
    layers = nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False))
    if activation == "relu":
        layers.append(nn.BatchNorm2d(channels_out))
    return layers


def activate(activation: Activation, channels: int) -> nn.Sequential:
    """Return the activation, behind a batch norm if it needs one of its own."""
    layers = nn.Sequential(make_activation(activation, channels))
    if activation == "square":
        layers.insert(0, nn.BatchNorm2d(channels))
    return layers


class Subsample(nn.Module):
    """Every `stride`-th row and column of the input, then channels of zeros: no parameters.

    As a convolution: the shape of slices and padding is lost by torch's exporter.
    """

    kept: Tensor

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        kept = torch.eye(channels_out, channels_in)[:, :, None, None]
        self.register_buffer("kept", kept, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kept, stride=self.stride)


class Block(nn.Module):
    """Residual block of the module docstring."""

    def __init__(
        self, activation: Activation, channels_in: int, channels_out: int, stride: int
    ) -> None:
        super().__init__()
        self.conv1 = convolve(activation, channels_in, channels_out, stride)
        self.act1 = activate(activation, channels_out)
        self.conv2 = convolve(activation, channels_out, channels_out)
        self.act2 = activate(activation, channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = Subsample(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act2(self.conv2(self.act1(self.conv1(x))) + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """N x 3 x 32 x 32 to N x 10 logits; `depth` is 6 n + 2."""

    def __init__(self, depth: int = 20, activation: Activation = "relu") -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6 n + 2 with a positive n, not {depth}")
        channels = STAGES[0]
        blocks: list[nn.Module] = []
        for stage, width in enumerate(STAGES):
            for number in range(depth // 6):
                stride = 2 if stage and not number else 1
                blocks.append(Block(activation, channels, width, stride))
                channels = width
        self.stem = nn.Sequential(
            convolve(activation, 3, STAGES[0]), activate(activation, STAGES[0])
        )
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AvgPool2d(SIDE // 2 ** (len(STAGES) - 1))
        self.linear = nn.Linear(channels, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        features = self.pool(self.blocks(self.stem(image)))
        logits: Tensor = self.linear(features.flatten(1))
        return logits


def build_random(depth: int, activation: Activation, seed: int) -> ResNet:
    """Return a network in eval mode with random weights, the same for the same arguments."""
    images = calibration_images(SIDE, torch.Generator().manual_seed(seed))
    # (x + b)^2 = x^2 + 2 b x + b^2: without b, most values shrink with every square.
    shift = 2.0 if activation == "square" else 0.1
    return draw_network(lambda: ResNet(depth, activation), images, seed, shift)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0."""
    return torch_export.run_export(
        "python -m models.resnet",
        build_random,
        {"depth": DEPTHS, "activation": ACTIVATIONS},
        lambda **_: (3, SIDE, SIDE),
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
