"""A digits network with ReLU from scikit-learn, to choose the precision of activations for.

    python -m models.relu_digits --out FOLDER

writes `relu_digits.onnx`, one hidden layer of 64 (input `image`, 1 x 1 x 8 x 8; output `logits`,
1 x 10), and `relu_digits_calibration.npz`, the training images of `models.digits`. The test images
are the shipped `digits_test.npz`. Fitting takes seconds; other releases of scikit-learn may give
other weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from models.digits import load_data

HIDDEN = 64
MODEL, CALIBRATION = "relu_digits.onnx", "relu_digits_calibration.npz"


def write_network(folder: Path, seed: int = 0) -> float:
    """Fit the network, write both files to a folder, return its accuracy on the test images."""
    from sklearn.neural_network import MLPClassifier

    data = load_data()
    net = MLPClassifier((HIDDEN,), alpha=0.01, max_iter=400, random_state=seed)
    net.fit(data.train_image.reshape(-1, 64), data.train_label)
    weights = dict(zip("abst", [*net.coefs_, *net.intercepts_], strict=True))
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["pixels"], name="flatten"),
            helper.make_node("Gemm", ["pixels", "a", "s"], ["hidden"], name="hidden"),
            helper.make_node("Relu", ["hidden"], ["active"], name="relu"),
            helper.make_node("Gemm", ["active", "b", "t"], ["logits"], name="logits"),
        ],
        "relu_digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, 8, 8))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 10))],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / MODEL).write_bytes(model.SerializeToString())
    np.savez_compressed(folder / CALIBRATION, image=data.train_image)
    return float(net.score(data.test_image.reshape(-1, 64), data.test_label))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.relu_digits", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    accuracy = write_network(options.out)
    print(f"written: {options.out / MODEL}, {options.out / CALIBRATION}")
    print(f"accuracy on the test images {100 * accuracy:.1f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
