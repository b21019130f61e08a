"""The trained networks of the zoo in torch.

    digits_relu_mlp  64 - 32 - 10
    lenet5_relu      `models.lenet` at 28 x 28
    silu_cnn         two convolutions with SiLU
    separable_cnn    a convolution, two depthwise-separable ones
    autoencoder      two strided convolutions, two transposed ones
    resnet_small     a stem and two residual blocks
    transformer      one block of attention on the 8 rows of an image
    cnn_1d           two convolutions along a signal

All but the transformer have ReLU behind what is linear, the SiLU network SiLU. Inputs are N x 1 x
8 x 8 digits, those of `lenet5_relu` 28 x 28, those of `cnn_1d` N x 1 x 64. Outputs are logits, of
the autoencoder the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.lenet import LeNet5
from models.zoo import signals

DIGITS = 10


def convolve(channels_in: int, channels_out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a 3 x 3 convolution that keeps or halves the side; its bias is the batch norm's."""
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, groups=groups, bias=False)


def digits_relu_mlp() -> nn.Module:
    """One hidden layer, so that it is fast encrypted."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, DIGITS))


def silu_cnn() -> nn.Module:
    """1 -> 8 at 8 x 8, 16 at 4 x 4, average pool."""
    return nn.Sequential(
        convolve(1, 8),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        convolve(8, 16, stride=2),
        nn.BatchNorm2d(16),
        nn.SiLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, DIGITS),
    )


def separable_cnn() -> nn.Module:
    """A convolution, then twice: 3 x 3 within each channel, 1 x 1 across them, ReLU."""
    layers = nn.Sequential(convolve(1, 8), nn.BatchNorm2d(8), nn.ReLU())
    for channels, stride in ((8, 1), (16, 2)):
        layers.extend(
            nn.Sequential(
                convolve(channels, channels, stride, groups=channels),
                nn.Conv2d(channels, 2 * channels, 1, bias=False),
                nn.BatchNorm2d(2 * channels),
                nn.ReLU(),
            )
        )
    layers.extend(nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, DIGITS)))
    return layers


def autoencoder() -> nn.Module:
    """8 x 8 to 16 channels of 2 x 2 and back."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1),
    )


class ResidualBlock(nn.Module):
    """relu(conv(relu(conv(x))) + shortcut(x)); a 1 x 1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolve(channels_in, channels_out, stride),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            convolve(channels_out, channels_out),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or channels_in != channels_out:
            self.shortcut.append(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels_out))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return y


def resnet_small() -> nn.Module:
    """8 channels of 8 x 8, then 16 of 4 x 4, averaged."""
    return nn.Sequential(
        convolve(1, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        ResidualBlock(8, 8, 1),
        ResidualBlock(8, 16, 2),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(16, DIGITS),
    )


class Attention(nn.Module):
    """softmax(Q K^T / sqrt d) V of every head, d = width / heads; N x tokens x width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.queries, self.keys, self.values = (nn.Linear(width, width) for _ in range(3))
        self.softmax = nn.Softmax(dim=-1)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(f(x)) for f in (self.queries, self.keys, self.values))
        shares = self.softmax(q @ k.transpose(2, 3) / math.sqrt(self.width // self.heads))
        mixed: Tensor = self.out((shares @ v).transpose(1, 2).flatten(2))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, self.width // self.heads)).transpose(1, 2)


class Transformer(nn.Module):
    """Rows as tokens, a position each, one block with norms before its parts, the mean, logits."""

    def __init__(self, tokens: int = 8, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.5 * torch.randn(tokens, width))
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.linear = nn.Linear(width, DIGITS)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image.flatten(1, 2)) + self.position
        x = x + self.attention(self.attention_norm(x))
        x = x + self.mlp(self.norm(x))
        logits: Tensor = self.linear(x.mean(1))
        return logits


def cnn_1d() -> nn.Module:
    """64 -> 32 -> 16 places, then their mean."""
    return nn.Sequential(
        nn.Conv1d(1, 8, 5, stride=2, padding=2),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 16, 5, stride=2, padding=2),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.AvgPool1d(4),
        nn.Flatten(),
        nn.Linear(64, len(signals.CLASSES)),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "digits_relu_mlp": digits_relu_mlp,
    "lenet5_relu": lambda: LeNet5("relu", 28),
    "silu_cnn": silu_cnn,
    "separable_cnn": separable_cnn,
    "autoencoder": autoencoder,
    "resnet_small": resnet_small,
    "transformer": Transformer,
    "cnn_1d": cnn_1d,
}
