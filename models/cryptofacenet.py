"""CryptoFaceNet in torch, for any square input whose side is a multiple of 32.

The network of Ao and Boddeti, "CryptoFace: End-to-End Encrypted Face Recognition", CVPR 2025.
The image is cut into (S/32)^2 patches of 32 x 32; each patch has its own small residual network
of the same shape and gives 256 features; one linear layer joins the features to the embedding:

    features_p = BN(flatten(pool(HerPN(blocks_p(conv_p(patch_p))))))        256 per patch
    embedding  = BN(W [features_0, features_1, ...] + bias)                 256

Patches are numbered row by row. The activation is a second-degree Hermite expansion of ReLU with
a batch norm on each term (Park et al., "AESPA", arXiv 2201.06699), H_0 = 1, H_1 = x,
H_2 = (x^2 - 1) / sqrt(2):

    HerPN(x) = weight * (BN_0(H_0) / sqrt(2 pi) + BN_1(H_1) / 2 + BN_2(H_2) / sqrt(4 pi)) + bias

In eval mode this is one quadratic a x^2 + b x + c per channel. A block is

    h = HerPN_1(x),    y = conv_2(HerPN_2(conv_1(h))),    out = y + shortcut(h)

with 3 x 3 convolutions, the stride on conv_1, and shortcut(h) = h where the shape is kept,
otherwise a strided 1 x 1 convolution and a batch norm.

    python -m models.cryptofacenet export --size 96 --seed 0 --out cryptofacenet9.onnx

writes the network with random weights: the same graph, shapes and cost as a trained one, with
activations that stay bounded, and an embedding that means nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import torch_export

Network = TypeVar("Network", bound=nn.Module)

PATCH = 32
EMBEDDING = 256
POOLED = 2
STEM_CHANNELS = 16
BLOCKS = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1))
"""Output channels and stride of each residual block."""
RANGE_LIMIT = 4.0


class HerPN(nn.Module):
    """The Hermite activation of the module docstring, for N x channels x H x W."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(channels, affine=False)
        self.bn1 = nn.BatchNorm2d(channels, affine=False)
        self.bn2 = nn.BatchNorm2d(channels, affine=False)
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        constant = self.bn0(torch.ones_like(x)) / math.sqrt(2 * math.pi)
        linear = self.bn1(x) / 2
        square = self.bn2((x * x - 1) / math.sqrt(2)) / math.sqrt(4 * math.pi)
        result: Tensor = self.weight * (constant + linear + square) + self.bias
        return result


class HerPNBlock(nn.Module):
    """Residual block: activations before the convolutions, the shortcut after the first one."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.herpn1 = HerPN(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.herpn2 = HerPN(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut.append(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        h = self.herpn1(x)
        out: Tensor = self.conv2(self.herpn2(self.conv1(h))) + self.shortcut(h)
        return out


class HerPNPool(nn.Module):
    """Activation, then average pooling from `side` x `side` to 2 x 2."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.herpn = HerPN(channels)
        self.pool = nn.AvgPool2d(side // POOLED)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(self.herpn(x))
        return pooled


class PatchNet(nn.Module):
    """The network of one patch: N x 3 x 32 x 32 to N x 256 features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, STEM_CHANNELS, 3, padding=1, bias=False)
        blocks = []
        channels, side = STEM_CHANNELS, PATCH
        for channels_out, stride in BLOCKS:
            blocks.append(HerPNBlock(channels, channels_out, stride))
            channels, side = channels_out, side // stride
        self.layers = nn.Sequential(*blocks)
        self.herpnpool = HerPNPool(channels, side)
        self.bn = nn.BatchNorm1d(channels * POOLED**2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.herpnpool(self.layers(self.conv(x)))
        features: Tensor = self.bn(x.flatten(1))
        return features


def patches_per_side(size: int) -> int:
    """Return size / 32; ValueError unless that is a positive whole number."""
    if size <= 0 or size % PATCH:
        raise ValueError(f"size must be a positive multiple of {PATCH}, not {size}")
    return size // PATCH


class CryptoFaceNet(nn.Module):
    """The whole network: N x 3 x size x size to N x 256, `size` a positive multiple of 32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.side = patches_per_side(size)
        patches = self.side**2
        features = BLOCKS[-1][0] * POOLED**2
        self.nets = nn.ModuleList(PatchNet() for _ in range(patches))
        self.linear = nn.Linear(features * patches, EMBEDDING)
        self.bn = nn.BatchNorm1d(EMBEDDING, affine=False)

    def patch_features(self, image: Tensor) -> list[Tensor]:
        """Return the features of each patch, N x 256, patches row by row."""
        features = []
        for p, net in enumerate(self.nets):
            top, left = PATCH * (p // self.side), PATCH * (p % self.side)
            features.append(net(image[:, :, top : top + PATCH, left : left + PATCH]))
        return features

    def embed(self, features: list[Tensor]) -> Tensor:
        """Join what `patch_features` returned to the embedding, N x 256."""
        embedding: Tensor = self.bn(self.linear(torch.cat(features, dim=1)))
        return embedding

    def forward(self, image: Tensor) -> Tensor:
        return self.embed(self.patch_features(image))


def smooth_images(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return `count` x 3 x `size` x `size` random images in [-1, 1], smooth like photographs.

    Smooth, because the convolutions' statistics depend on how alike neighbouring pixels are.
    """
    total = torch.zeros(count, 3, size, size)
    for cells, amplitude in ((2, 0.6), (size // 8, 0.4), (size // 2, 0.15)):
        coarse = torch.randn(count, 3, cells, cells, generator=generator)
        total += amplitude * functional.interpolate(coarse, size=(size, size), mode="bicubic")
    return total.tanh()


def calibration_images(size: int, generator: torch.Generator) -> Tensor:
    """Return 128 x 3 x `size` x `size` images in [-1, 1] that span what may come in.

    Smooth images alone leave the corners of the input cube out, and a network with their
    statistics overflows on a plain white image or on noise.
    """
    smooth = smooth_images(96, size, generator)
    noise = 2 * torch.rand(16, 3, size, size, generator=generator) - 1
    extreme = torch.randint(0, 2, (8, 3, size, size), generator=generator) * 2.0 - 1
    flat = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    return torch.cat([smooth, noise, extreme, flat.view(8, 3, 1, 1).expand(-1, -1, size, size)])


def build_random(size: int, seed: int) -> CryptoFaceNet:
    """Return a network in eval mode with random weights and plausible running statistics."""
    images = calibration_images(size, torch.Generator().manual_seed(seed))
    return draw_network(lambda: CryptoFaceNet(size), images, seed)


def draw_network(
    make: Callable[[], Network], images: Tensor, seed: int, shift: float = 0.1
) -> Network:
    """Return what `make` makes, in eval mode, with random weights and the statistics of `images`.

    The same arguments give the same network; torch's global generator is left alone. `shift` is the
    deviation of what batch norms add.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
        for module in network.modules():
            if isinstance(module, HerPN):
                # A trained network has a different quadratic in every channel, some of them
                # with a negative leading coefficient.
                signs = torch.where(torch.rand_like(module.weight) < 0.15, -1.0, 1.0)
                module.weight.data = signs * (0.5 + torch.rand_like(module.weight))
                module.bias.data.normal_(std=0.1)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.affine:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(std=shift)
    set_statistics(network, images)
    return network


def set_statistics(network: nn.Module, images: Tensor) -> None:
    """Set every running mean and variance from one pass of `images`; leaves eval mode behind.

    With v the input of a batch norm, per channel: mean = mean(v), and

        variance = max( var(v), (max |v - mean| / RANGE_LIMIT)^2 ),

    so no normalised value exceeds RANGE_LIMIT on `images`. The plain variance, which training
    would use, is not enough with random weights: a value of k deviations comes out of a quadratic
    as about k^2, and after eleven of them in a row a rare pixel overflows float32.
    Each batch norm uses its statistics at once, hence one pass settles all of them.
    """

    def measure(norm: nn.BatchNorm1d | nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        rows = inputs[0].transpose(0, 1).flatten(1)
        deviation = rows - rows.mean(1, keepdim=True)
        largest = deviation.abs().amax(1) / RANGE_LIMIT
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(rows.mean(1))
        norm.running_var.copy_(torch.maximum(deviation.square().mean(1), largest.square()))

    handles = [
        module.register_forward_pre_hook(measure)
        for module in network.modules()
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
    ]
    network.eval()
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()


def export(path: Path, size: int, seed: int) -> CryptoFaceNet:
    """Write a random-weight network for `size` x `size` images to `path` and return it.

    Input `image`, 1 x 3 x size x size; output `embedding`, 1 x 256; opset 17.
    """
    network = build_random(size, seed)
    torch_export.export_onnx(network, torch.zeros(1, 3, size, size), path, "embedding")
    return network


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m models.cryptofacenet")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("export", help="write a random-weight ONNX file")
    command.add_argument("--size", type=int, default=64, help="side of the image, multiple of 32")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        patches_per_side(options.size)
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    network = export(options.out, options.size, options.seed)
    images = smooth_images(4, options.size, torch.Generator().manual_seed(options.seed + 1))
    print(
        f"{options.out.name}: {len(network.nets)} patches, "
        f"{sum(p.numel() for p in network.parameters())} parameters, "
        f"largest |value| {torch_export.find_peak_value(network, images):.1f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
