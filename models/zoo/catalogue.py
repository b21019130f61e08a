"""The networks of the zoo by name; needs neither torch nor onnx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """A network.

    Args:
        samples: the kind of its inputs, of `models.zoo.samples`.
        output: name of what is compiled: logits or other scores, or what an autoencoder restores.
        made_by: "seed": random weights, not shipped; "torch", "sklearn": trained and shipped.
        input: name of its input.
    """

    samples: str
    output: str = "logits"
    made_by: str = "torch"
    input: str = "image"

    @property
    def classifies(self) -> bool:
        """Whether the output is a score per class."""
        return self.output != "restored"


CATALOGUE: dict[str, Entry] = {
    "mlp_square": Entry("large_digits", made_by="seed"),
    "lola": Entry("large_digits", made_by="seed"),
    "lenet_square": Entry("large_digits", made_by="seed"),
    "tenseal_cnn": Entry("large_digits", made_by="seed"),
    "digits_relu_mlp": Entry("digits"),
    "lenet5_relu": Entry("large_digits"),
    "silu_cnn": Entry("digits"),
    "separable_cnn": Entry("digits"),
    "autoencoder": Entry("digits", "restored"),
    "resnet_small": Entry("digits"),
    "transformer": Entry("digits"),
    "cnn_1d": Entry("signals"),
    "sklearn_logistic": Entry("features", "probabilities", "sklearn", "features"),
    "sklearn_svc": Entry("features", "probabilities", "sklearn", "features"),
    "sklearn_mlp": Entry("features", "add_result1", "sklearn", "features"),
}


def names_made_by(*makers: str) -> list[str]:
    """The names of the networks that are made so."""
    return [name for name, entry in CATALOGUE.items() if entry.made_by in makers]


SHIPPED = names_made_by("torch", "sklearn")


def shipped_path(name: str) -> Path:
    """Where the ONNX file of a shipped network is."""
    return FOLDER / f"{name}.onnx"
