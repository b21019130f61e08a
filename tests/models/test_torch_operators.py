"""What PyTorch exports for layers without ciphertext products is imported and computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fhecompile.frontend import import_model
from fhecompile.ir.evaluate import evaluate

torch = pytest.importorskip("torch", reason="the layers are torch's, not installed")

from models import torch_export  # noqa: E402  (after the skip)

nn, functional = torch.nn, torch.nn.functional


class Do(nn.Module):
    """A layer that is a function."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


MASK = torch.arange(36).reshape(6, 6) % 3 == 0
LAYERS = {
    "convolution along a line": (nn.Conv1d(4, 6, 3, padding=2, dilation=2, groups=2), (1, 4, 9)),
    "transposed convolution": (
        nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1),
        (2, 4, 5, 5),
    ),
    "nearest": (nn.Upsample(scale_factor=2, mode="nearest"), (1, 3, 4, 5)),
    "bilinear": (nn.Upsample(scale_factor=1.5, mode="bilinear"), (1, 3, 4, 6)),
    "bilinear with corners": (
        nn.Upsample(size=(7, 9), mode="bilinear", align_corners=True),
        (1, 3, 4, 6),
    ),
    "bicubic": (nn.Upsample(size=(7, 9), mode="bicubic"), (1, 3, 4, 6)),
    "pixel shuffle": (nn.PixelShuffle(2), (1, 8, 3, 3)),
    "pixel unshuffle": (nn.PixelUnshuffle(2), (1, 2, 4, 6)),
    "reflection": (nn.ReflectionPad2d((1, 2, 0, 1)), (1, 2, 4, 4)),
    "replication": (nn.ReplicationPad2d(2), (1, 2, 3, 3)),
    "circular": (nn.CircularPad2d((1, 0, 2, 1)), (1, 2, 4, 4)),
    "adaptive pool": (nn.AdaptiveAvgPool2d((2, 2)), (1, 2, 6, 4)),
    "average pool": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (1, 2, 7, 6)),
    "layer norm": (nn.LayerNorm((4, 5)), (2, 4, 5)),
    "instance norm": (nn.InstanceNorm2d(3, affine=True), (1, 3, 4, 4)),
    "group norm": (nn.GroupNorm(2, 4), (1, 4, 3, 3)),
    "linear in three axes": (nn.Linear(4, 3), (2, 5, 4)),
    "einsum": (Do(lambda x: torch.einsum("bij,jk->bki", x, torch.ones(4, 2))), (2, 3, 4)),
    "lower triangle": (Do(torch.tril), (1, 4, 5)),
    "running sum": (Do(lambda x: torch.cumsum(x, 1)), (1, 4, 5)),
    "roll": (Do(lambda x: torch.roll(x, (1, -2), (1, 2))), (1, 4, 5)),
    "flip": (Do(lambda x: torch.flip(x, (2,))), (1, 4, 5)),
    "masked": (Do(lambda x: x.masked_fill(MASK, 0.5)), (1, 6, 6)),
    "chunks": (Do(lambda x: torch.cat(torch.chunk(x, 2, 1)[::-1], 1)), (1, 4, 5)),
    "unfold": (Do(lambda x: functional.unfold(x, 2)), (1, 2, 4, 4)),
    "index": (Do(lambda x: x[:, [2, 0], ::2]), (1, 4, 5)),
    "repeat": (Do(lambda x: x.repeat(1, 2, 1).repeat_interleave(2, 2)), (1, 2, 3)),
    "shape": (Do(lambda x: x.reshape(x.shape[0], -1, x.shape[1]).mean(1)), (2, 3, 4)),
}


# The exporter of whole programs takes a second each.
PROGRAMS = [
    "transposed convolution",
    "bilinear",
    "layer norm",
    "einsum",
    "masked",
    "chunks",
    "shape",
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("name", "exporter"),
    [*((name, "graph") for name in LAYERS), *((name, "program") for name in PROGRAMS)],
)
def test_layer(name: str, exporter: str, tmp_path: Path) -> None:
    layer, shape = LAYERS[name]
    layer = layer.eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    path = tmp_path / "layer.onnx"
    if exporter == "graph":
        torch_export.export_onnx(layer, x, path, "y")
    else:
        torch.onnx.export(layer, (x,), path, dynamo=True, verbose=False)
    graph = import_model(path).graph
    (given,) = graph.inputs()
    (found,) = evaluate(graph, {given.name: x.numpy().astype(np.float64)[None]}).values()
    with torch.no_grad():
        expected = layer(x).numpy()
    assert found.shape[1:] == expected.shape
    assert np.abs(found[0] - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
