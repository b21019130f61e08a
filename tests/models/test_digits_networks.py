"""The torch side of the digit classifiers: the quadratic, reproducible training, the export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="models are defined in torch, which is not installed")

from models import digits_networks, torch_export  # noqa: E402  (after the skip)

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(-1, 1, (64, 1, 8, 8)).astype(np.float32)
LABELS = RANDOM.integers(0, 10, 64)


def test_names_are_reachable_from_digits() -> None:
    from models.digits import DigitsCNN, DigitsMLP

    assert (DigitsMLP, DigitsCNN) == (digits_networks.DigitsMLP, digits_networks.DigitsCNN)


@pytest.mark.parametrize("spatial_axes", [0, 2])
def test_quadratic_is_per_channel(spatial_axes: int) -> None:
    quadratic = digits_networks.Quadratic(3, spatial_axes)
    quadratic.a.data += torch.arange(3.0).view_as(quadratic.a)
    x = torch.randn(2, 3, *[4] * spatial_axes)
    for channel in range(3):
        v = x[:, channel]
        expected = (0.25 + channel) * v**2 + 0.5 * v + 0.1
        torch.testing.assert_close(quadratic(x)[:, channel], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_training_depends_on_the_seed_only(name: str, tmp_path: Path) -> None:
    network_class = digits_networks.NETWORKS[name]
    networks = []
    for seed in (0, 0, 1):
        torch.rand(7)  # earlier use of the global generator must not matter
        networks.append(
            digits_networks.train_network(network_class, IMAGES, LABELS, seed=seed, epochs=2)
        )
    x = torch.from_numpy(IMAGES)
    first, again, other = (network(x) for network in networks)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

    path = tmp_path / "network.onnx"
    torch_export.export_onnx(networks[0], x[:1], path, "logits")
    session = onnxruntime.InferenceSession(str(path))
    logits = np.concatenate([session.run(None, {"image": image[None]})[0] for image in IMAGES])
    np.testing.assert_allclose(logits, first.detach().numpy(), rtol=0, atol=1e-5)


def test_peak_value_sees_inside_modules() -> None:
    quadratic = digits_networks.Quadratic(1, 0)
    # 10 -> x^2 = 100, while the output is 25 + 5 + 0.1.
    assert torch_export.find_peak_value(quadratic, torch.tensor([[10.0]])) == 100.0
