"""One torch network in the graphs of torch's exporters costs the same, and computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the exporters are torch's, not installed")

import runtime  # noqa: E402  (after the skip)
from fhecompile.compile import compile  # noqa: E402
from fhecompile.plan import Plan  # noqa: E402
from fhecompile.plan.summary import summarise  # noqa: E402
from models import torch_export  # noqa: E402
from models.activations import Square  # noqa: E402
from models.zoo.networks import ResidualBlock, convolve  # noqa: E402

torch.set_num_threads(1)
nn = torch.nn


class Residual(nn.Module):
    """A block whose ReLUs are squares, behind a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.block = ResidualBlock(2, 4, 2)
        self.block.body[2], self.block.relu = Square(), nn.Sequential(nn.BatchNorm2d(4), Square())
        self.linear = nn.Linear(4, 3)

    def forward(self, image):
        return self.linear(self.block(image).mean((2, 3)))


class ByShape(nn.Module):
    """Reshapes by numbers that are computed from shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 4), nn.Linear(32, 3)

    def forward(self, image):
        x = image.reshape(image.shape[0] * image.shape[2] * 2, -1)
        x = self.first(x).pow(2).reshape(image.size(0), -1, 4)
        return self.last(x.transpose(1, 2).flatten(1)[:, :32])


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    made = {
        "cnn": lambda: nn.Sequential(
            convolve(2, 4),
            nn.BatchNorm2d(4),
            Square(),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(6, 3),
        ),
        "mlp": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(128, 16), nn.BatchNorm1d(16), nn.Sigmoid(), nn.Linear(16, 3)
        ),
        "residual": Residual,
        "by shape": ByShape,
        "transposed": lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1), Square(), nn.ConvTranspose2d(4, 1, 2, stride=2)
        ),
    }[name]()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                values.data.uniform_(0.5, 1.5)
            for values in (module.bias, module.running_mean):
                values.data.normal_(std=0.2)
    return made.eval()


X = torch.rand((40, 2, 8, 8), generator=torch.Generator().manual_seed(0)) * 2 - 1


def export(module: nn.Module, exporter: str, path: Path) -> None:
    if exporter == "as written":
        torch_export.export_onnx(module, X[:1], path, "y")
    elif exporter == "folded":  # torch's default: batch norms are in the convolutions
        torch.onnx.export(module, (X[:1],), path, dynamo=False, input_names=["image"])
    else:
        torch.onnx.export(module, (X[:1],), path, dynamo=True, input_names=["image"], verbose=False)


def cost(plan: Plan) -> dict[str, Any]:
    found = summarise(plan)
    names = ("multiplicative_depth", "levels", "rotations", "key_switches", "plaintext_mults")
    return {name: getattr(found, name) for name in (*names, "rotation_keys")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["cnn", "mlp", "residual", "by shape", "transposed"])
def test_exporters(name: str, tmp_path: Path) -> None:
    module, plans = network(name), {}
    for exporter in ("as written", "folded", "program"):
        path = tmp_path / f"{exporter}.onnx"
        export(module, exporter, path)
        toy = {"ring_dimension": 2048, "insecure_toy": True}
        plans[exporter] = compile(path, calibration=X.numpy(), precision_bits=6, **toy)
    costs = {exporter: cost(plan) for exporter, plan in plans.items()}
    assert costs["folded"] == costs["as written"]
    assert costs["program"] == costs["as written"]
    with torch.no_grad():
        expected = module(X[:10]).numpy()
    for plan in plans.values():
        (found,) = runtime.run(plan, {"image": X[:10].numpy()}, "clear", insecure_toy=True).values()
        assert np.abs(found - expected).max() <= 2.0**-6 * np.abs(expected).max()
