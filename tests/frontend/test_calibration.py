"""Calibration files and their errors."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.errors import FheCompileError
from fhecompile.frontend.calibration import load_calibration, synthetic_calibration
from fhecompile.ir.tensor import Input, TensorGraph

RANDOM = np.random.default_rng(6)


def graph_of(**shapes):
    graph = TensorGraph("g")
    for name, shape in shapes.items():
        graph.add(Input(name=name, shape=shape))
    return graph


IMAGE = graph_of(image=(1, 3, 4, 4))


def text_of(path, graph=IMAGE):
    with pytest.raises(FheCompileError) as caught:
        load_calibration(path, graph)
    return str(caught.value)


@pytest.mark.parametrize("shape", [(5, 1, 3, 4, 4), (5, 3, 4, 4), (1, 3, 4, 4)])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_load(tmp_path, shape, suffix):
    samples = RANDOM.normal(size=shape).astype(np.float32)
    path = tmp_path / f"samples.{suffix}"
    if suffix == "npz":
        np.savez(path, image=samples, labels=np.array(["cat"]))
    else:
        np.save(path, samples)
    loaded = load_calibration(path, IMAGE)
    assert list(loaded) == ["image"]
    assert loaded["image"].dtype == np.float64
    np.testing.assert_array_equal(loaded["image"], samples.reshape(-1, 1, 3, 4, 4))


def test_load_several_inputs(tmp_path):
    graph = graph_of(x_0=(2, 3), b=(4,))
    path = tmp_path / "samples.npz"
    np.savez(path, **{"x:0": np.zeros((7, 2, 3)), "b": np.ones((7, 4), np.uint8)})
    loaded = load_calibration(path, graph)
    assert {name: x.shape for name, x in loaded.items()} == {"x_0": (7, 2, 3), "b": (7, 4)}


def test_arrays_in_memory():
    samples = RANDOM.normal(size=(2, 3, 4, 4))
    for source in (samples, {"image": samples}):
        loaded = load_calibration(source, IMAGE)["image"]
        np.testing.assert_array_equal(loaded, samples[:, None])
    assert text_of({"image": samples[0]}).startswith(
        "calibration: the samples of image have shape (3, 4, 4), expected "
    )


def test_no_such_file():
    assert text_of("missing.npz") == (
        "missing.npz: there is no such file [no-such-file]\n"
        "  hint: give an .npz or .npy file of calibration samples"
    )


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken", b"\x93NUMPY\x01"])
def test_not_an_array_file(tmp_path, content):
    path = tmp_path / "samples.npz"
    path.write_bytes(content)
    assert text_of(path) == (
        f"{path}: this is not a numeric .npz or .npy file [calibration-mismatch]\n"
        "  hint: save the calibration samples with numpy.savez or numpy.save"
    )


def test_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "samples.npy"
    np.save(path, np.array([{"a": 1}], dtype=object))
    assert "this is not a numeric .npz or .npy file" in text_of(path)


def test_missing_name(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, images=np.zeros((2, 3, 4, 4)), labels=np.zeros(2))
    assert text_of(path) == (
        f"{path}: there is no array for input image; the arrays are: images, labels "
        "[calibration-mismatch]\n"
        "  hint: save it with numpy.savez(path, image=samples)"
    )


def test_one_array_for_two_inputs(tmp_path):
    path = tmp_path / "samples.npy"
    np.save(path, np.zeros((2, 3)))
    assert text_of(path, graph_of(a=(3,), b=(3,))) == (
        f"{path}: one array is given, but the inputs are a, b [calibration-mismatch]\n"
        "  hint: give one array per input, under the input's name"
    )


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (3, 4, 4), (), (0, 3, 4, 4)])
def test_wrong_shape(tmp_path, shape):
    path = tmp_path / "samples.npy"
    np.save(path, np.zeros(shape))
    assert text_of(path) == (
        f"{path}: the samples of image have shape {shape}, expected (n, 1, 3, 4, 4) or "
        "(n, 3, 4, 4) [calibration-mismatch]\n"
        "  hint: the first axis counts the samples, n is at least 1"
    )


def test_wrong_shape_of_a_vector(tmp_path):
    path = tmp_path / "samples.npy"
    np.save(path, np.zeros(4))
    assert "have shape (4,), expected (n, 4) [calibration-mismatch]" in text_of(
        path, graph_of(x=(4,))
    )


def test_not_finite(tmp_path):
    samples = np.zeros((2, 3, 4, 4))
    samples[0, 0, 0, :2] = np.nan, np.inf
    path = tmp_path / "samples.npy"
    np.save(path, samples)
    assert text_of(path) == (
        f"{path}: the samples of image hold 2 NaN or infinite values of 96 "
        "[calibration-mismatch]\n"
        "  hint: take the samples that hold them out"
    )


def test_not_numbers(tmp_path):
    path = tmp_path / "samples.npy"
    np.save(path, np.array(["a", "b"]))
    assert text_of(path) == (
        f"{path}: the samples of image have type <U1, not numbers [calibration-mismatch]\n"
        "  hint: save them as float32"
    )


def test_different_numbers_of_samples(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, a=np.zeros((2, 3)), b=np.zeros((5, 3)))
    assert text_of(path, graph_of(a=(3,), b=(3,))) == (
        f"{path}: the inputs have different numbers of samples: a has 2, b has 5 "
        "[calibration-mismatch]\n"
        "  hint: give one value of every input per sample"
    )


def test_synthetic_samples():
    graph = graph_of(a=(1, 200), b=())
    samples = synthetic_calibration(graph, samples=5, seed=3)
    assert {name: x.shape for name, x in samples.items()} == {"a": (5, 1, 200), "b": (5,)}
    assert -1 <= samples["a"].min() < -0.9 < 0.9 < samples["a"].max() <= 1
    again = synthetic_calibration(graph, samples=5, seed=3)
    np.testing.assert_array_equal(samples["a"], again["a"])
    assert synthetic_calibration(graph)["a"].shape == (8, 1, 200)
