"""What torch's exporter writes for normalisation and activations becomes one function each."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from fhecompile.frontend import import_model
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.tensor import Function

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch.nn import functional  # noqa: E402  (after the skip)

CASES: dict[str, tuple[Callable[..., object], str]] = {
    "normalize": (functional.normalize, "inverse_sqrt"),
    "norm": (lambda y: y / y.norm(dim=1, keepdim=True), "inverse_sqrt"),
    "rsqrt": (lambda y: y * torch.rsqrt((y * y).sum(1, keepdim=True) + 1e-6), "inverse_sqrt"),
    "clamp": (
        lambda y: y / torch.sqrt(torch.clamp((y**2).sum(1, keepdim=True), min=1e-12)),
        "inverse_sqrt",
    ),
    "reciprocal": (lambda y: y / (1 + y * y), "reciprocal"),
    "gelu": (functional.gelu, "gelu"),
    "silu": (functional.silu, "silu"),
    "sigmoid": (torch.sigmoid, "sigmoid"),
    "tanh": (torch.tanh, "tanh"),
    "relu": (functional.relu, "relu"),
    "clamp at zero": (lambda y: torch.clamp(y, min=0), "relu"),
    "exp": (torch.exp, "exp"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rows", [1, 3])
def test_functions(case: str, rows: int) -> None:
    function, name = CASES[case]

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = torch.nn.Linear(6, 8)

        def forward(self, x: object) -> object:
            return function(self.dense(x))

    torch.manual_seed(0)
    network = Network().eval()
    x = torch.randn(5, rows, 6)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x[0],), file, opset_version=17, dynamo=False)
    graph = import_model(file.getvalue()).graph
    live = graph.rebuilt(graph)
    assert [n.function for n in live if isinstance(n, Function)] == [name]
    (node,) = graph.inputs()
    (found,) = evaluate(graph, {node.name: x.numpy().astype(np.float64)}).values()
    with torch.no_grad():
        expected = torch.stack([network(sample) for sample in x]).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())
