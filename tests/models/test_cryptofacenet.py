"""CryptoFaceNet with random weights: the export is the network, and its values stay bounded."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest

if TYPE_CHECKING:
    from torch import Tensor

torch = pytest.importorskip("torch", reason="CryptoFaceNet is defined in torch, not installed")

from models import cryptofacenet, torch_export  # noqa: E402  (after the skip)


def held_out_images(size: int) -> Tensor:
    return cryptofacenet.smooth_images(8, size, torch.Generator().manual_seed(1000))


@pytest.mark.parametrize("size", [32, 64, 96])
def test_export_agrees_with_torch(size: int, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    network = cryptofacenet.export(path, size, seed=0)
    session = onnxruntime.InferenceSession(str(path))
    (image,), (embedding,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ("image", [1, 3, size, size])
    assert (embedding.name, embedding.shape) == ("embedding", [1, 256])

    images = held_out_images(size)
    with torch.no_grad():
        expected = network(images).numpy()
    found = [session.run(None, {"image": x[None]})[0] for x in images.numpy()]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=1e-4)
    # Not a constant function: the embedding varies from image to image.
    assert expected.std(axis=0).mean() > 0.3


def test_graph_is_that_of_the_trained_network(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    cryptofacenet.export(path, 64, seed=0)
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    # The exporter writes one Identity per shared initializer and one node per constant; which
    # ones is its own business, everything else is the published network with four patches.
    counts = Counter(node.op_type for node in model.graph.node)
    for bookkeeping in ("Identity", "Constant", "Unsqueeze"):
        counts.pop(bookkeeping, None)
    assert counts == {
        "Slice": 6,
        "Conv": 4 * (1 + 5 * 2 + 2),
        "BatchNormalization": 4 * (11 * 3 + 2 + 1) + 1,
        "Div": 4 * 11 * 4,
        "Mul": 4 * 11 * 2,
        "Sub": 4 * 11,
        "Add": 4 * (11 * 3 + 5),
        "AveragePool": 4,
        "Flatten": 4,
        "Concat": 1,
        "Gemm": 1,
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_values_stay_bounded(seed: int) -> None:
    network = cryptofacenet.build_random(64, seed)
    generator = torch.Generator().manual_seed(2000 + seed)
    noise = 2 * torch.rand(8, 3, 64, 64, generator=generator) - 1
    grey = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(-1, 3, 64, 64)
    for images in (held_out_images(64), noise, grey):
        assert torch_export.find_peak_value(network, images) < 100


def test_same_seed_same_network() -> None:
    x = held_out_images(32)
    before = torch.get_rng_state()
    first, again, other = (cryptofacenet.build_random(32, seed)(x) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_herpn_is_one_quadratic_per_channel() -> None:
    herpn = cryptofacenet.build_random(32, 0).nets[0].layers[2].herpn1
    g, shift = herpn.weight.double().flatten(), herpn.bias.double().flatten()
    mean = [bn.running_mean.double() for bn in (herpn.bn0, herpn.bn1, herpn.bn2)]
    scale = [(bn.running_var.double() + bn.eps).rsqrt() for bn in (herpn.bn0, herpn.bn1, herpn.bn2)]
    a = g * scale[2] / math.sqrt(8 * math.pi)
    b = g * scale[1] / 2
    c = shift + g * (
        (1 - mean[0]) * scale[0] / math.sqrt(2 * math.pi)
        - mean[1] * scale[1] / 2
        - (1 / math.sqrt(2) + mean[2]) * scale[2] / math.sqrt(4 * math.pi)
    )
    x = torch.randn(2, len(a), 4, 4, generator=torch.Generator().manual_seed(0))
    a, b, c = (value.view(-1, 1, 1) for value in (a, b, c))
    torch.testing.assert_close(
        herpn(x).double(), a * x.double() ** 2 + b * x.double() + c, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("size", [0, -32, 48])
def test_size_must_be_a_multiple_of_32(size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be a positive multiple of 32, not {size}"):
        cryptofacenet.CryptoFaceNet(size)


def test_export_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.onnx"
    assert cryptofacenet.main(["export", "--size", "32", "--out", str(path)]) == 0
    assert path.is_file()
    assert "1 patches, 236240 parameters" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cryptofacenet.main(["export", "--size", "50", "--out", str(path)])
    assert stop.value.code == 2
