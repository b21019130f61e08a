"""Convolutions and pools against ONNX Runtime."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from fhecompile.ir.tensor import Affine

RANDOM = np.random.default_rng(7)


def conv(**attributes):
    return helper.make_node("Conv", ["x", "w"], ["y"], **attributes)


@pytest.mark.parametrize(
    ("shape", "kernel", "attributes"),
    [
        ((1, 3, 8, 8), (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((1, 3, 9, 8), (4, 3, 3, 2), {"strides": [2, 3], "pads": [0, 1, 2, 0]}),
        ((2, 2, 7, 7), (3, 2, 3, 3), {"dilations": [2, 1]}),
        ((1, 6, 5, 5), (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
        ((1, 6, 5, 5), (4, 3, 1, 1), {"group": 2}),
        ((1, 2, 7, 6), (3, 2, 3, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((1, 2, 7, 6), (3, 2, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
        ((1, 2, 7, 6), (3, 2, 3, 3), {"auto_pad": "VALID"}),
        ((1, 2, 11), (3, 2, 3), {"pads": [2, 0], "strides": [2]}),
        ((3, 2, 11), (2, 1, 5), {"group": 2}),
        ((1, 2, 4, 4, 4), (2, 2, 2, 2, 2), {"pads": [0, 0, 1, 1, 0, 0]}),
    ],
)
@pytest.mark.parametrize("opset", [13, 17, 21])
def test_conv(agrees, shape, kernel, attributes, opset):
    graph = agrees(conv(**attributes), {"x": shape}, {"w": RANDOM.normal(size=kernel)}, opset=opset)
    assert [n.op for n in graph] == ["input", "affine", "output"]


def test_conv_with_bias(agrees):
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], kernel_shape=[3, 3])
    weights = {"w": RANDOM.normal(size=(4, 2, 3, 3)), "b": RANDOM.normal(size=4)}
    graph = agrees(node, {"x": (1, 2, 5, 5)}, weights)
    assert graph["y"].bias.shape == (1, 4, 1, 1)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    spatial=st.lists(st.integers(1, 8), min_size=1, max_size=2),
    groups=st.integers(1, 3),
)
def test_conv_geometry(agrees, data, spatial, groups):
    axes = len(spatial)
    draw = lambda low, high, n: data.draw(  # noqa: E731
        st.lists(st.integers(low, high), min_size=n, max_size=n)
    )
    kernel, strides, dilations = draw(1, 3, axes), draw(1, 3, axes), draw(1, 2, axes)
    pads = draw(0, 2, 2 * axes)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    room = [n + pads[a] + pads[a + axes] - extents[a] for a, n in enumerate(spatial)]
    assume(min(room) >= 0)
    weights = RANDOM.normal(size=(2 * groups, 2, *kernel))
    node = conv(strides=strides, dilations=dilations, pads=pads, group=groups)
    agrees(node, {"x": (1, 2 * groups, *spatial)}, {"w": weights})


def test_conv_keeps_its_kernel_once(agrees):
    weights = RANDOM.normal(size=(8, 4, 3, 3))
    graph = agrees(conv(pads=[1, 1, 1, 1]), {"x": (1, 4, 16, 16)}, {"w": weights})
    (term,) = graph["y"].maps[0].terms
    assert term.shape == (8, 4, 3, 3, 16, 16)
    assert term.values.shape == (8, 4, 3, 3, 1, 1)
    assert term.in_index.shape == (1, 4, 3, 3, 16, 16)
    assert term.out_index.shape == (8, 1, 1, 1, 16, 16)
    np.testing.assert_array_equal(term.values[..., 0, 0], weights.astype(np.float32))


def test_depthwise_conv_keeps_its_kernel_once(agrees):
    weights = RANDOM.normal(size=(6, 1, 3, 3))
    graph = agrees(conv(group=6), {"x": (1, 6, 8, 8)}, {"w": weights})
    (term,) = graph["y"].maps[0].terms
    assert term.values.shape == (6, 3, 3, 1, 1)
    assert term.in_index.shape == (6, 3, 3, 6, 6)


def transposed(*operands, **attributes):
    return helper.make_node("ConvTranspose", ["x", "w", *operands], ["y"], **attributes)


@pytest.mark.parametrize(
    ("shape", "kernel", "attributes"),
    [
        ((1, 3, 4, 5), (3, 2, 3, 3), {}),
        ((2, 3, 4, 5), (3, 2, 3, 2), {"strides": [2, 3], "pads": [0, 1, 2, 0]}),
        ((1, 2, 4, 4), (2, 3, 3, 3), {"strides": [2, 2], "output_padding": [1, 0]}),
        ((1, 4, 4, 3), (4, 1, 2, 2), {"group": 4, "strides": [2, 2]}),
        ((1, 6, 3, 3), (6, 2, 2, 2), {"group": 3}),
        ((1, 2, 4, 5), (2, 2, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((1, 2, 4, 5), (2, 2, 4, 4), {"auto_pad": "SAME_LOWER", "strides": [3, 1]}),
        ((1, 2, 4, 5), (2, 2, 4, 4), {"auto_pad": "VALID", "strides": [3, 1]}),
        ((1, 2, 3, 3), (2, 2, 3, 3), {"strides": [3, 2], "output_shape": [10, 8]}),
        ((1, 2, 3, 3), (2, 2, 2, 2), {"dilations": [2, 3], "pads": [1, 2, 1, 0]}),
        ((2, 2, 5), (2, 3, 4), {"strides": [2], "pads": [1, 1]}),
        ((1, 1, 2, 3, 2), (1, 2, 2, 2, 2), {"strides": [2, 1, 2]}),
    ],
)
@pytest.mark.parametrize("opset", [7, 11, 22])
def test_conv_transpose(agrees, shape, kernel, attributes, opset):
    weights = {"w": RANDOM.normal(size=kernel)}
    graph = agrees(transposed(**attributes), {"x": shape}, weights, opset=opset)
    assert [n.op for n in graph] == ["input", "affine", "output"]
    weights["b"] = RANDOM.normal(size=kernel[1] * attributes.get("group", 1))
    agrees(transposed("b", **attributes), {"x": shape}, weights, opset=opset)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    spatial=st.lists(st.integers(1, 5), min_size=1, max_size=2),
    groups=st.integers(1, 3),
)
def test_conv_transpose_geometry(agrees, data, spatial, groups):
    axes = len(spatial)
    draw = lambda low, high, n: data.draw(  # noqa: E731
        st.lists(st.integers(low, high), min_size=n, max_size=n)
    )
    kernel, strides, dilations = draw(1, 3, axes), draw(1, 3, axes), draw(1, 2, axes)
    pads = draw(0, 2, 2 * axes)
    # ONNX Runtime 1.23 mixes the channels up where this reaches the stride; later ones refuse it.
    extra = [data.draw(st.integers(0, stride - 1)) for stride in strides]
    full = [
        (n - 1) * strides[a] + (kernel[a] - 1) * dilations[a] + 1 + extra[a]
        for a, n in enumerate(spatial)
    ]
    assume(min(n - pads[a] - pads[a + axes] for a, n in enumerate(full)) >= 1)
    weights = RANDOM.normal(size=(2 * groups, 2, *kernel))
    node = transposed(
        strides=strides, dilations=dilations, pads=pads, group=groups, output_padding=extra
    )
    agrees(node, {"x": (1, 2 * groups, *spatial)}, {"w": weights})


def test_conv_transpose_with_output_padding_beyond_the_stride(agrees):
    """As PyTorch 2.13 has it: zeros at the end."""
    node = transposed(dilations=[1, 2], output_padding=[0, 1])
    weights = {"w": np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)}

    def pytorch(_, samples):
        x = samples["x"]
        y = np.stack([x[..., :1, :, :] * a + x[..., 1:, :, :] * b for a, b in ((1, 3), (2, 4))], 2)
        return {"y": np.pad(y[:, :, :, 0], [(0, 0)] * 4 + [(0, 1)])}

    agrees(node, {"x": (1, 2, 1, 3)}, weights, tolerance=1e-6, reference=pytorch)


def test_conv_transpose_keeps_its_kernel_once(agrees):
    weights = RANDOM.normal(size=(4, 2, 2, 2))
    graph = agrees(transposed(strides=[2, 2]), {"x": (1, 4, 8, 8)}, {"w": weights})
    (term,) = graph["y"].maps[0].terms
    assert term.values.shape == (4, 2, 2, 2, 1, 1)
    assert term.in_index.shape == (4, 1, 1, 1, 8, 8)


def pool(**attributes):
    return helper.make_node("AveragePool", ["x"], ["y"], **attributes)


def pool_in_loops(x, kernel, strides, pads, dilations, ceil, include):
    """AveragePool of (n, c, ..) as PyTorch defines it, window by window.

    Not ONNX Runtime 1.23, which errs with count_include_pad: below opset 19 it divides by the full
    window where ceil_mode makes it overhang the padding (its pull request 29629), from 19 on it
    takes the end padding of another axis. Not ONNX's evaluator, which shifts windows in ceil_mode.
    """
    rank = len(kernel)
    ends = [n + pads[a + rank] for a, n in enumerate(x.shape[2:])]
    starts = []
    for a in range(rank):
        room = ends[a] + pads[a] - (kernel[a] - 1) * dilations[a] - 1
        count = (math.ceil if ceil else math.floor)(room / strides[a]) + 1
        candidates = [p * strides[a] - pads[a] for p in range(count)]
        starts.append([s for s in candidates if s < x.shape[2 + a]])
    y = np.zeros((*x.shape[:2], *[len(s) for s in starts]))
    for place in np.ndindex(*y.shape[2:]):
        total, count = 0.0, 0
        for k in np.ndindex(*kernel):
            at = [starts[a][place[a]] + k[a] * dilations[a] for a in range(rank)]
            inside = all(0 <= i < n for i, n in zip(at, x.shape[2:], strict=True))
            total = total + (x[(slice(None), slice(None), *at)] if inside else 0.0)
            count += inside or (include and all(i < n for i, n in zip(at, ends, strict=True)))
        y[(slice(None), slice(None), *place)] = total / count
    return y


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((1, 3, 8, 8), {"kernel_shape": [4, 4], "strides": [4, 4]}),
        ((1, 2, 7, 7), {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((1, 2, 6, 7), {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER"}),
        ((1, 2, 6, 7), {"kernel_shape": [3, 2], "auto_pad": "VALID"}),
    ],
)
def test_average_pool(agrees, shape, attributes, ceil, include):
    agrees(pool(**attributes, ceil_mode=ceil, count_include_pad=include), {"x": shape})


@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    spatial=st.lists(st.integers(2, 8), min_size=1, max_size=2),
    ceil=st.integers(0, 1),
    include=st.integers(0, 1),
    opset=st.sampled_from([13, 19]),
)
def test_average_pool_geometry(agrees, data, spatial, ceil, include, opset):
    axes = len(spatial)
    draw = lambda low, high, n: data.draw(  # noqa: E731
        st.lists(st.integers(low, high), min_size=n, max_size=n)
    )
    kernel, strides = draw(1, 4, axes), draw(1, 3, axes)
    dilations = draw(1, 2, axes) if opset >= 19 else [1] * axes
    # ONNX Runtime refuses pads that reach the kernel's size.
    pads = [data.draw(st.integers(0, kernel[a % axes] - 1)) for a in range(2 * axes)]
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    assume(min(n + pads[a] + pads[a + axes] - extents[a] for a, n in enumerate(spatial)) >= 0)
    node = pool(
        kernel_shape=kernel,
        strides=strides,
        pads=pads,
        ceil_mode=ceil,
        count_include_pad=include,
        **({"dilations": dilations} if opset >= 19 else {}),
    )

    def loops(_, samples):
        window = (kernel, strides, pads, dilations, ceil, include)
        return {"y": np.stack([pool_in_loops(x, *window) for x in samples["x"]])}

    agrees(node, {"x": (1, 2, *spatial)}, opset=opset, reference=loops)
    if not (include and (ceil or opset >= 19)):
        agrees(node, {"x": (1, 2, *spatial)}, opset=opset)


def test_average_pool_is_one_number(agrees):
    graph = agrees(pool(kernel_shape=[2, 2], strides=[2, 2]), {"x": (1, 16, 8, 8)})
    (term,) = graph["y"].maps[0].terms
    assert term.values.size == 1


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 3, 7), (1, 2, 3, 3, 3)])
def test_global_average_pool(agrees, shape):
    graph = agrees(helper.make_node("GlobalAveragePool", ["x"], ["y"]), {"x": shape})
    node = graph["y"]
    assert isinstance(node, Affine)
    assert node.maps[0].terms[0].values.size == 1
