"""Conv, ConvTranspose, AveragePool, GlobalAveragePool.

Convolution with G groups, x of shape (n, G*C, ..), kernel W of shape (G*O, C, k..):

    y[n, g, o, p] = sum over c, k of W[g, o, c, k] * x[n, g, c, p*stride + k*dilation - pad]

is one term over the axes (n, g, o, c, k.., p..), whose values are the kernel, stored once. The
transposed one, W of shape (G*C, O, k..), exchanges the two indices: over (n, g, c, o, k.., p..)

    y[n, g, o, p*stride + k*dilation - pad] += W[g, c, o, k] * x[n, g, c, p]
"""

from __future__ import annotations

import math

import numpy as np

from fhecompile.ckks.linear_map import collapse
from fhecompile.frontend import maps
from fhecompile.frontend.lowering import NodeLowering, Tensor
from fhecompile.frontend.windows import transposed_axes, window_axes, window_sources


def lower_conv(call: NodeLowering) -> Tensor:
    """Conv in any number of spatial axes, with groups, dilations and padding."""
    x = call.tensor(0)
    kernel = call.weights(1, "kernel")
    groups = call.attribute("group", 1)
    fits = len(kernel.shape) == len(x.shape) >= 3 and kernel.size and groups > 0
    if not fits or x.shape[1] != groups * kernel.shape[1] or kernel.shape[0] % groups:
        call.invalid(f"kernel {kernel.shape}, group {groups} for an input {x.shape}")
    batch, channels, *sizes = x.shape
    outputs, depth, *shape = kernel.shape
    if tuple(call.integers("kernel_shape", shape)) != tuple(shape):
        call.invalid(f"kernel_shape does not fit the kernel {kernel.shape}")
    axes = window_axes(call, sizes, shape)
    windows = [axis.windows for axis in axes]
    ones = [1] * len(axes)
    planes = np.arange(batch * channels).reshape(batch, groups, 1, depth)
    made = (batch, groups, outputs // groups, 1, *ones, *windows)
    term = maps.single_term(
        kernel.reshape(1, groups, outputs // groups, depth, *shape, *ones),
        maps.positions(made),
        window_sources(planes, axes),
        math.prod(made),
        x.size,
    )
    bias = call.weights(2, "bias") if call.has_input(2) else np.zeros(outputs)
    if bias.size != outputs:
        call.invalid(f"bias {bias.shape} for {outputs} output channels")
    return call.affine([(x, term)], (batch, outputs, *windows), bias.reshape(1, outputs, *ones))


def lower_conv_transpose(call: NodeLowering) -> Tensor:
    """ConvTranspose in any number of spatial axes; what falls into the padding is cut off."""
    x = call.tensor(0)
    kernel = call.weights(1, "kernel")
    groups = call.attribute("group", 1)
    fits = len(kernel.shape) == len(x.shape) >= 3 and kernel.size and groups > 0
    if not fits or x.shape[1] != kernel.shape[0] or kernel.shape[0] % groups:
        call.invalid(f"kernel {kernel.shape}, group {groups} for an input {x.shape}")
    batch, channels, *sizes = x.shape
    depth, outputs, *shape = channels // groups, *kernel.shape[1:]
    if tuple(call.integers("kernel_shape", shape)) != tuple(shape):
        call.invalid(f"kernel_shape does not fit the kernel {kernel.shape}")
    axes = transposed_axes(call, sizes, shape)
    ones = [1] * len(axes)
    made = [axis.size for axis in axes]
    planes = np.arange(batch * groups * outputs).reshape(batch, groups, 1, outputs)
    full = (batch, groups * outputs, *made)
    maps.check_size(full)
    term = maps.single_term(
        kernel.reshape(1, groups, depth, outputs, *shape, *ones),
        window_sources(planes, axes),
        maps.positions(x.shape).reshape(batch, groups, depth, 1, *ones, *sizes),
        math.prod(full),
        x.size,
    )
    bias = call.weights(2, "bias") if call.has_input(2) else np.zeros(groups * outputs)
    if bias.size != groups * outputs:
        call.invalid(f"bias {bias.shape} for {groups * outputs} output channels")
    return call.affine([(x, term)], full, bias.reshape(1, groups * outputs, *ones))


def lower_average_pool(call: NodeLowering) -> Tensor:
    """AveragePool; with padding excluded, the border windows have larger weights.

    What `ceil_mode` makes a window overhang beyond the padding is never counted, as ONNX and
    PyTorch have it; ONNX Runtime below opset 19 counts it when `count_include_pad` is set.
    """
    x = call.tensor(0)
    if len(x.shape) < 3:
        call.invalid(f"an input {x.shape} without spatial axes")
    batch, channels, *sizes = x.shape
    shape = call.integers("kernel_shape", ())
    axes = window_axes(call, sizes, shape)
    include = bool(call.attribute("count_include_pad", 0))
    windows = [axis.windows for axis in axes]
    ones = [1] * len(axes)
    weight = np.ones((1, *ones, *ones))
    for a, axis in enumerate(axes):
        count = (axis.padded if include else axis.inside).sum(axis=0)
        view = [1] * weight.ndim
        view[1 + len(axes) + a] = axis.windows
        weight = weight / np.maximum(count, 1).reshape(view)
    made = (batch * channels, *ones, *windows)
    term = maps.single_term(
        collapse(weight),
        maps.positions(made),
        window_sources(np.arange(batch * channels), axes),
        math.prod(made),
        x.size,
    )
    return call.affine([(x, term)], (batch, channels, *windows))


def lower_global_average_pool(call: NodeLowering) -> Tensor:
    """The mean over all spatial axes."""
    x = call.tensor(0)
    if len(x.shape) < 3:
        call.invalid(f"an input {x.shape} without spatial axes")
    axes = range(2, len(x.shape))
    weight = 1.0 / math.prod(x.shape[2:])
    kept = (*x.shape[:2], *[1] * len(axes))
    return call.affine([(x, maps.summing(x.shape, axes, weight))], kept)
