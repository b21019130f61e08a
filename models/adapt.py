"""Adapts a trained torch network to encrypted inference: polynomials for activations, averages for
maxima, then fine-tuning.

    adapted = adapt(network, samples, labels)     # a copy; the network stays as it is
    torch_export.export_onnx(adapted, example, path, "logits")

1.  The network is traced by torch.fx, so that ReLU, SiLU and the like are found as modules and as
    functions, and one module that is called twice gets two polynomials. Max pooling becomes average
    pooling over the same windows, without their padding.
2.  At every activation f the values x of the samples are seen. With `polynomial` it becomes, for
    each channel (axis 1) with trainable a_0..a_d,

        p(x) = sum_i a_i t^i,    t = (x - centre) / radius

    where centre and radius are those of all values seen; it starts as the least-squares fit of f on
    quantiles of the values and, so that it is tame between them, on equally spaced points of the
    range. With `herpn` it becomes `models.cryptofacenet.HerPN`, whose weight and bias start as the
    least-squares fit of f channel by channel.
3.  Fine-tuning minimises cross-entropy, or without labels the mean squared difference from the
    original's outputs, plus

        RANGE_PENALTY * sum over polynomials of mean( max(|t| - 1, 0)^2 )

    as what leaves the range of a polynomial is lost. For HerPN, t is its normalised input / 3.

A polynomial of degree 2 is one multiplication deep, a layer in front of it another.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from models.cryptofacenet import HerPN, set_statistics

Replacement = Literal["polynomial", "herpn"]
RANGE_PENALTY = 1.0
HERPN_RANGE = 3.0
QUANTILES = 400
POINTS = 100

Function = Callable[[Tensor], Tensor]
MODULES: dict[type[nn.Module], Function] = {
    nn.ReLU: functional.relu,
    nn.ReLU6: functional.relu6,
    nn.LeakyReLU: functional.leaky_relu,
    nn.SiLU: functional.silu,
    nn.GELU: functional.gelu,
    nn.ELU: functional.elu,
    nn.Sigmoid: torch.sigmoid,
    nn.Tanh: torch.tanh,
}
FUNCTIONS: dict[Any, Function] = {
    **{function: function for function in MODULES.values()},
    torch.relu: functional.relu,
    functional.sigmoid: torch.sigmoid,
    functional.tanh: torch.tanh,
}
METHODS: dict[str, Function] = {
    "relu": functional.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}

_log = logging.getLogger(__name__)


class RangedPolynomial(nn.Module):
    """sum_i a_i ((x - centre) / radius)^i with coefficients per channel, the channel being axis 1.

    Args:
        coefficients: those to start with, from the constant up.
        low, high: the range of x.
        channels: of x.
        axes: axes of x after the channel.
    """

    def __init__(
        self, coefficients: Sequence[float], low: float, high: float, channels: int, axes: int
    ) -> None:
        super().__init__()
        self.centre, self.radius = (low + high) / 2, max((high - low) / 2, 1e-6)
        shape = (channels, *(1 for _ in range(axes)))
        self.coefficients = nn.ParameterList(
            nn.Parameter(torch.full(shape, float(a))) for a in coefficients
        )
        self.excess = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        t = (x - self.centre) * (1 / self.radius)
        if self.training:
            self.excess = functional.relu(t.abs() - 1).square().mean()
        powers = [t]
        for i in range(2, len(self.coefficients)):
            powers.append(powers[i // 2 - 1] * powers[i - i // 2 - 1])
        terms = [a * power for a, power in zip(list(self.coefficients)[1:], powers, strict=True)]
        value: Tensor = sum(terms[1:], terms[0]) + self.coefficients[0]
        return value


class RangedHerPN(HerPN):
    """HerPN that notes how far its normalised input exceeds `HERPN_RANGE`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.excess = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True)
            t = (x - mean) / (variance + self.bn1.eps).sqrt() / HERPN_RANGE
            self.excess = functional.relu(t.abs() - 1).square().mean()
        result: Tensor = super().forward(x)
        return result


def adapt(
    network: nn.Module,
    samples: NDArray[np.float32],
    labels: NDArray[np.int64] | None = None,
    *,
    replacement: Replacement = "polynomial",
    degree: int = 2,
    epochs: int = 20,
    rate: float = 2e-3,
    batch_size: int = 64,
    seed: int = 0,
) -> nn.Module:
    """Returns an adapted and fine-tuned copy in eval mode; the same seed gives the same one.

    Args:
        network: trained; torch.fx must be able to trace it.
        samples: n x the shape of an input, like those it was trained with.
        labels: n classes; None: the copy is to give what the original gives.
        replacement: what activations become; "herpn" is for N x channels x H x W.
        degree: of "polynomial".
        epochs: passes over the samples.
        rate: the largest learning rate.
        batch_size: of a step.
        seed: of the order of samples.

    Raises:
        ValueError: the network cannot be traced, has nothing to replace, or the values at an
            activation do not suit the replacement; degree below 2.
    """
    adapted = replace(network, samples, replacement, degree)
    x = torch.from_numpy(samples)
    targets = _outputs(network, x) if labels is None else torch.from_numpy(labels)
    _fine_tune(adapted, x, targets, labels is not None, epochs, rate, batch_size, seed)
    return adapted.eval()


def replace(
    network: nn.Module,
    samples: NDArray[np.float32],
    replacement: Replacement = "polynomial",
    degree: int = 2,
) -> fx.GraphModule:
    """Returns a copy with activations and max pools replaced, not fine-tuned; see `adapt`."""
    if degree < 2:
        raise ValueError(f"degree must be at least 2, not {degree}")
    try:
        traced = fx.symbolic_trace(copy.deepcopy(network).eval())
    except Exception as error:  # fx raises what the traced code raises
        raise ValueError(f"the network cannot be traced: {error}") from error
    x = torch.from_numpy(samples)
    _average_pools(traced)
    # One after the other, so that each is fitted to what the polynomials before it give.
    sites = [(node, f) for node in traced.graph.nodes if (f := _function(traced, node))]
    if not sites:
        raise ValueError("the network has no activation to replace")
    for number, (node, f) in enumerate(sites):
        values = _values_at(traced, node.all_input_nodes[0], x)
        module = _make(replacement, f, values, degree)
        _put(traced, node, f"polynomial_{number}", module)
    return traced


def _function(traced: fx.GraphModule, node: fx.Node) -> Function | None:
    """The activation that a node applies, if it is one."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        # The module itself: it has its slope or its form. It may work in place.
        return (lambda x: module(x.clone())) if type(module) in MODULES else None
    if node.op == "call_function" and node.target in FUNCTIONS:
        f, keywords = FUNCTIONS[node.target], {**node.kwargs}
        keywords.pop("inplace", None)
        return lambda x: f(x, *node.args[1:], **keywords)
    return METHODS.get(str(node.target)) if node.op == "call_method" else None


def _average_pools(traced: fx.GraphModule) -> None:
    """Replaces max pools by average pools over the same windows."""
    kinds = {nn.MaxPool1d: nn.AvgPool1d, nn.MaxPool2d: nn.AvgPool2d, nn.MaxPool3d: nn.AvgPool3d}
    for number, node in enumerate(list(traced.graph.nodes)):
        pool: nn.Module | None = None
        if node.op == "call_module":
            pool = traced.get_submodule(str(node.target))
        elif node.op == "call_function" and node.target in (
            functional.max_pool2d,
            torch.max_pool2d,
        ):
            pool = nn.MaxPool2d(*node.args[1:], **node.kwargs)
        kind = kinds.get(type(pool))
        if pool is None or kind is None:
            continue
        if pool.dilation not in (1, (1,), (1, 1), (1, 1, 1)):
            raise ValueError(f"{node.name}: a dilated max pool has no average pool like it")
        average = kind(
            pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, count_include_pad=False
        )
        _put(traced, node, f"average_{number}", average)


def _put(traced: fx.GraphModule, node: fx.Node, name: str, module: nn.Module) -> None:
    """Applies `module` where `node` was."""
    traced.add_submodule(name, module)
    with traced.graph.inserting_after(node):
        new = traced.graph.call_module(name, (node.all_input_nodes[0],))
    node.replace_all_uses_with(new)
    traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()


class _Recorder(fx.Interpreter):
    """Runs a traced network and keeps the value of one node."""

    def __init__(self, traced: fx.GraphModule, node: fx.Node) -> None:
        super().__init__(traced)
        self.node, self.value = node, torch.zeros(())

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n is self.node:
            self.value = result.clone()  # the next node may work in place
        return result


def _values_at(traced: fx.GraphModule, node: fx.Node, x: Tensor) -> Tensor:
    recorder = _Recorder(traced.eval(), node)
    with torch.no_grad():
        recorder.run(x)
    return recorder.value


def _make(replacement: Replacement, f: Function, values: Tensor, degree: int) -> nn.Module:
    """The module for an activation f of these values, fitted to it."""
    if values.ndim < 2:
        raise ValueError(f"values of shape {tuple(values.shape)} have no channels")
    if replacement == "polynomial":
        return _fit_polynomial(f, values, degree)
    if replacement != "herpn":
        raise ValueError(f"there is no replacement {replacement}, only polynomial, herpn")
    if values.ndim != 4:
        raise ValueError(f"HerPN is for 4 axes, values have {values.ndim}: use polynomial")
    module = RangedHerPN(values.shape[1])
    set_statistics(module, values)
    with torch.no_grad():
        module.eval()
        # Regression of f on the Hermite sum h, per channel: w = cov(h, f) / var(h).
        h, y = module(values).double(), f(values).double()
        h_mean, y_mean = h.mean((0, 2, 3), keepdim=True), y.mean((0, 2, 3), keepdim=True)
        covariance = ((h - h_mean) * (y - y_mean)).mean((0, 2, 3))
        weight = covariance / (h - h_mean).square().mean((0, 2, 3)).clamp_min(1e-12)
        bias = y_mean.flatten() - weight * h_mean.flatten()
        module.weight.copy_(weight[:, None, None])
        module.bias.copy_(bias[:, None, None])
    return module


def _fit_polynomial(f: Function, values: Tensor, degree: int) -> RangedPolynomial:
    low, high = float(values.min()), float(values.max())
    seen = np.quantile(values.numpy(), np.linspace(0, 1, QUANTILES))
    points = np.concatenate([seen, np.linspace(low, high, POINTS)])
    with torch.no_grad():
        y = f(torch.from_numpy(points)).numpy()
    module = RangedPolynomial([0.0] * (degree + 1), low, high, values.shape[1], values.ndim - 2)
    t = (points - module.centre) / module.radius
    fitted = np.polynomial.polynomial.polyfit(t, y, degree)
    for parameter, a in zip(module.coefficients, fitted, strict=True):
        parameter.data.fill_(float(a))
    return module


def _outputs(network: nn.Module, x: Tensor) -> Tensor:
    network.eval()
    with torch.no_grad():
        outputs: Tensor = network(x)
    return outputs


def _fine_tune(
    network: nn.Module,
    x: Tensor,
    targets: Tensor,
    are_labels: bool,
    epochs: int,
    rate: float,
    batch_size: int,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=rate, epochs=epochs, steps_per_epoch=-(-len(x) // batch_size)
    )
    ranged = [m for m in network.modules() if isinstance(m, RangedPolynomial | RangedHerPN)]
    network.train()
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(x), generator=generator).split(batch_size):
            output = network(x[index])
            if are_labels:
                loss = functional.cross_entropy(output, targets[index], label_smoothing=0.05)
            else:
                loss = functional.mse_loss(output, targets[index])
            excess = torch.stack([m.excess for m in ranged]).sum()
            optimiser.zero_grad()
            (loss + RANGE_PENALTY * excess).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        _log.info("epoch %d of %d: loss %.4f", epoch + 1, epochs, total / len(x))
