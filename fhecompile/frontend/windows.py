"""Windows of convolutions and pools: padding, output sizes, positions.

Along one axis, window p reads the positions p * stride + k * dilation - pad for k < kernel. With
e = (kernel - 1) * dilation + 1 the number of windows is floor((size + pads - e) / stride) + 1, or
the ceiling of it less the windows that would start in the end padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhecompile.frontend.lowering import NodeLowering


@dataclass(frozen=True)
class WindowAxis:
    """One spatial axis.

    Args:
        size: length of the input.
        begin: padding before it.
        end: padding after it.
        positions: input position of (k, p), outside [0, size) in the padding.
    """

    size: int
    begin: int
    end: int
    positions: NDArray[np.int64]

    @property
    def kernel(self) -> int:
        """Positions per window."""
        return int(self.positions.shape[0])

    @property
    def windows(self) -> int:
        """Number of windows, the output's length."""
        return int(self.positions.shape[1])

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether (k, p) reads an element of the input."""
        return np.asarray((self.positions >= 0) & (self.positions < self.size))

    @property
    def padded(self) -> NDArray[np.bool_]:
        """Whether (k, p) reads an element of the input or of its padding."""
        low, high = -self.begin, self.size + self.end
        return np.asarray((self.positions >= low) & (self.positions < high))


def window_axes(
    call: NodeLowering, sizes: Sequence[int], kernel: Sequence[int]
) -> list[WindowAxis]:
    """The axes of a Conv or AveragePool from its attributes."""
    rank = len(sizes)
    strides = call.integers("strides", [1] * rank)
    dilations = call.integers("dilations", [1] * rank)
    pads = call.integers("pads", [0] * (2 * rank))
    auto_pad = call.attribute("auto_pad", "NOTSET")
    ceil_mode = bool(call.attribute("ceil_mode", 0))
    if not len(kernel) == len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
        call.invalid(f"kernel_shape, strides, dilations and pads do not fit {rank} spatial axes")
    if min(*kernel, *strides, *dilations) < 1:
        call.invalid("kernel_shape, strides and dilations must be positive")
    axes = []
    for a, size in enumerate(sizes):
        extent = (kernel[a] - 1) * dilations[a] + 1
        begin, end = pads[a], pads[a + rank]
        if auto_pad == "VALID":
            begin = end = 0
        elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            total = max((-(-size // strides[a]) - 1) * strides[a] + extent - size, 0)
            begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            end = total - begin
        room = size + begin + end - extent
        if room < 0:
            call.invalid(f"a window of {extent} does not fit an axis of {size} elements")
        windows = room // strides[a] + 1
        if ceil_mode and room % strides[a] and windows * strides[a] < size + begin:
            windows += 1
        k, p = np.arange(kernel[a])[:, None], np.arange(windows)[None, :]
        axes.append(WindowAxis(size, begin, end, p * strides[a] + k * dilations[a] - begin))
    return axes


def transposed_axes(
    call: NodeLowering, sizes: Sequence[int], kernel: Sequence[int]
) -> list[WindowAxis]:
    """The axes of a ConvTranspose: those of the convolution from its result to its input.

    A result is as long as all its windows together, less the padding, and `output_padding` longer;
    where `output_shape` or SAME says how long, the padding is what is too much, the half that is
    larger by one at the begin, but at the end with SAME_UPPER.
    """
    rank = len(sizes)
    strides = call.integers("strides", [1] * rank)
    dilations = call.integers("dilations", [1] * rank)
    pads = call.integers("pads", [0] * (2 * rank))
    extra = call.integers("output_padding", [0] * rank)
    wanted = call.integers("output_shape", ())
    auto_pad = call.attribute("auto_pad", "NOTSET")
    lengths = {len(kernel), len(strides), len(dilations), len(extra), len(wanted) or rank}
    if lengths != {rank} or len(pads) != 2 * rank:
        call.invalid(f"kernel_shape, strides, dilations and pads do not fit {rank} spatial axes")
    if min(*kernel, *strides, *dilations) < 1:
        call.invalid("kernel_shape, strides and dilations must be positive")
    axes = []
    for a, size in enumerate(sizes):
        full = (size - 1) * strides[a] + (kernel[a] - 1) * dilations[a] + 1 + extra[a]
        begin, end = pads[a], pads[a + rank]
        if auto_pad == "VALID":
            begin = end = 0
        same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
        if wanted or same:
            total = max(full - (wanted[a] if wanted else size * strides[a]), 0)
            begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            end = total - begin
        length = wanted[a] if wanted else full - begin - end
        if length < 1:
            call.invalid(f"pads {pads} leave nothing of an axis of {full} elements")
        k, p = np.arange(kernel[a])[:, None], np.arange(size)[None, :]
        axes.append(WindowAxis(length, begin, end, p * strides[a] + k * dilations[a] - begin))
    return axes


def window_sources(planes: NDArray[np.int64], axes: Sequence[WindowAxis]) -> NDArray[np.int32]:
    """Flat input index of (*planes, k_1.., p_1..), -1 in the padding.

    Args:
        planes: indices of the two-dimensional (or n-dimensional) planes read, any shape.
        axes: the spatial axes.
    """
    rank = len(axes)
    index = planes.reshape(*planes.shape, *([1] * (2 * rank)))
    valid = np.ones((1,) * index.ndim, bool)
    for a, axis in enumerate(axes):
        view = [1] * index.ndim
        view[planes.ndim + a], view[planes.ndim + rank + a] = axis.positions.shape
        index = index * axis.size + axis.positions.reshape(view)
        valid = valid & axis.inside.reshape(view)
    return np.where(valid, index, -1).astype(np.int32)
