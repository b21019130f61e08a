"""Collects the nodes that cannot be compiled and reports them all in one error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fhecompile.errors import FheCompileError

POLYNOMIAL = (
    "replace it by a polynomial activation such as x*x or HerPN (models/ shows how) and fine-tune"
)
AFTER_DECRYPTION = (
    "take it off the exported model and apply it after decryption, or replace by a polynomial"
)
AVERAGE = "replace it by AveragePool and fine-tune"
MEAN = "replace it by a mean and fine-tune, or take it off the exported model"
UNROLLED = "export the network with its steps and branches fixed, so that the loop is unrolled"
RECURRENT = "export the network with its steps unrolled to Gemm, Sigmoid, Tanh and Mul"
COMPARED = (
    "encrypted values cannot be compared or rounded: apply it after decryption, or replace by a "
    "polynomial"
)
FLOATING = "export the network in floating point, before it is quantised"
SMALLER = (
    "multiply by constant weights, or take smaller matrices: fewer tokens, fewer or narrower heads"
)
CLASSES = "take the scores (--output-name); their largest is found after decryption"
RAW_SCORES = "export it with options={id(classifier): {'raw_scores': True}}"
GENERIC = "rewrite the network with supported operators, or take it off the exported model"

SUGGESTIONS = {
    **dict.fromkeys(
        (
            "Celu",
            "Clip",
            "PRelu",
            "Selu",
            "ThresholdedRelu",
        ),
        POLYNOMIAL,
    ),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool", "LpPool", "GlobalLpPool"), AVERAGE),
    **dict.fromkeys(("Max", "Min", "ReduceMax", "ReduceMin"), MEAN),
    "LRN": "replace it by BatchNormalization and fine-tune",
    **dict.fromkeys(("If", "Loop", "Scan"), UNROLLED),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), RECURRENT),
    **dict.fromkeys(
        (
            "And",
            "Ceil",
            "Equal",
            "Floor",
            "Greater",
            "GreaterOrEqual",
            "Less",
            "LessOrEqual",
            "Mod",
            "Not",
            "Or",
            "Round",
            "Xor",
        ),
        COMPARED,
    ),
    **dict.fromkeys(
        (
            "ConvInteger",
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "MatMulInteger",
            "QLinearConv",
            "QLinearMatMul",
            "QuantizeLinear",
        ),
        FLOATING,
    ),
    **dict.fromkeys(
        (
            "Hardmax",
            "ArgMax",
            "ArgMin",
            "TopK",
            "LpNormalization",
        ),
        AFTER_DECRYPTION,
    ),
    "Pow": "use an integer exponent from -64 to 64, 0.5 or -0.5",
    **dict.fromkeys(("MatMul", "Gemm", "Einsum"), SMALLER),
    **dict.fromkeys(("ai.onnx.ml::ArrayFeatureExtractor", "ai.onnx.ml::ZipMap"), CLASSES),
    "ai.onnx.ml::LinearClassifier": (
        f"{RAW_SCORES} and take those (--output-name); their largest is found after decryption"
    ),
    "ai.onnx.ml::Normalizer": RAW_SCORES,
    **dict.fromkeys(
        ("ai.onnx.ml::TreeEnsembleClassifier", "ai.onnx.ml::TreeEnsembleRegressor"), COMPARED
    ),
}

# What stands at the end of a model, so that one without it is still what was asked for.
ENDINGS = [name for name, text in SUGGESTIONS.items() if text in (AFTER_DECRYPTION, CLASSES)]


@dataclass
class UnsupportedNodes:
    """The nodes found so far, by operator and reason."""

    groups: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, op_type: str, reason: str, node: str) -> None:
        """Notes one node."""
        self.groups.setdefault((op_type, reason), []).append(node)

    def raise_if_any(self, place: str, others: Sequence[str]) -> None:
        """Raises one `unsupported-operators` error that names every group.

        Args:
            place: the model.
            others: values that could be compiled instead.
        """
        if not self.groups:
            return
        lines, hints = [], []
        total = sum(len(names) for names in self.groups.values())
        for (op_type, reason), names in self.groups.items():
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            lines.append(f"  {len(names)} x {op_type}: {reason} ({shown})")
            hints.append(f"{op_type}: {SUGGESTIONS.get(op_type, GENERIC)}")
        if others:
            chosen = " ".join(f"--output-name {name}" for name in others)
            hints.append(f"{chosen} leaves out what cannot be compiled")
        noun = "node" if total == 1 else "nodes"
        raise FheCompileError(
            "unsupported-operators",
            "\n".join([f"{total} {noun} cannot be compiled:", *lines]),
            node=place,
            hint="\n        ".join(dict.fromkeys(hints)),
        )
