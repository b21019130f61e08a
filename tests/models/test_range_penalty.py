"""What goes in and what comes out of modules, beyond a limit."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the penalty is of torch's modules, not installed")

from models.range_penalty import RangePenalty  # noqa: E402


def test_inputs_outputs_and_functions_of_them() -> None:
    module = torch.nn.ReLU()
    x = torch.tensor([[5.0, -3.0], [1.0, 2.0]])
    penalty = RangePenalty()
    penalty.watch_output(module, 2.0)
    module(x)
    assert float(penalty.take()) == 9 / 4
    penalty.watch_input(module, 2.5)
    penalty.watch_input(module, 20.0, torch.square)
    module(x)
    assert float(penalty.take()) == 9 / 4 + (2.5**2 + 0.5**2) / 4 + 25 / 4
    penalty.remove()
    module(x)
    assert float(penalty.take()) == 0
