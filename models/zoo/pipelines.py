"""The zoo's scikit-learn pipelines on the 64 values of a digit, and their export by skl2onnx.

    sklearn_logistic  StandardScaler, LogisticRegression
    sklearn_svc       StandardScaler, LinearSVC
    sklearn_mlp       StandardScaler, PCA to 32, MLPClassifier with 32 ReLUs

The exported models have the class as an output, too, which cannot be computed encrypted; what is
compiled are scores (`models.zoo.catalogue`), of the last one those that go into its softmax.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from models import digits

PIXELS = 64


def make_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines, not fitted."""
    mlp = MLPClassifier((32,), alpha=1.0, max_iter=500, random_state=0)
    return {
        "sklearn_logistic": make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, max_iter=500)
        ),
        "sklearn_svc": make_pipeline(StandardScaler(), LinearSVC(C=0.01, random_state=0)),
        "sklearn_mlp": make_pipeline(StandardScaler(), PCA(32, random_state=0), mlp),
    }


def fit(name: str) -> Pipeline:
    """Return the pipeline fitted to the digits to train with."""
    data = digits.load_data()
    return make_pipelines()[name].fit(data.train_image.reshape(-1, PIXELS), data.train_label)


def export(pipeline: Pipeline) -> onnx.ModelProto:
    """Return the ONNX model as a user of skl2onnx makes it: scores in a tensor, not in a map."""
    classifier = pipeline.steps[-1][1]
    options: dict[str, bool] = {}
    if not isinstance(classifier, LinearSVC):  # which has neither
        options["zipmap"] = False
    if isinstance(classifier, LogisticRegression):
        options["raw_scores"] = True
    return to_onnx(
        pipeline,
        initial_types=[("features", FloatTensorType([1, PIXELS]))],
        options={id(classifier): options},
    )


def train(name: str, folder: Path) -> float:
    """Fit a pipeline, write `name`.onnx and return its accuracy on the test digits."""
    pipeline, data = fit(name), digits.load_data()
    onnx.save(export(pipeline), folder / f"{name}.onnx")
    return float(pipeline.score(data.test_image.reshape(-1, PIXELS), data.test_label))
