"""The options of a compilation. One object, passed down; nothing is process-wide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Match = Literal["", "cosine", "distance", "gallery"]
Kind = Literal["", "minimax", "weighted", "composite"]


@dataclass(frozen=True)
class FunctionOptions:
    """What a user asks for one function that is no polynomial.

    Args:
        range: where it is fitted; None: where its operand was seen, and a margin.
        degree: the highest of a polynomial; 0: whatever is needed.
        error: the largest it may have by itself, in the units of `fhecompile.functions.table`.
        gap: what the operand of a sign keeps away from zero; None: half of what was seen.
        function: the kind of approximation; empty: any.
    """

    range: tuple[float, float] | None = None
    degree: int = 0
    error: float | None = None
    gap: float | None = None
    function: Kind = ""


@dataclass(frozen=True)
class CompileOptions:
    """What a user can ask for.

    Args:
        precision_bits: the largest error of an output, relative to the largest output on the
            calibration data, is to stay below 2^-precision_bits: what fitted functions change on
            the calibration data together with the noise that is predicted.
        activation_error: the most that all fitted functions together may change outputs by,
            relative to the largest output, in addition to noise, which then has all of
            `precision_bits`; None: three fourths of `precision_bits`.
        activations: what is asked for single functions, by ONNX node name or a pattern with * and
            ?; of several that match the last one counts. Or a TOML file of it.
        security_bits: classical security of the parameters, 128, 192 or 256.
        insecure_toy: allow a ring too small for `security_bits`; the plan says so everywhere.
        ring_dimension: use this ring dimension instead of the smallest that fits.
        match: what a plan computes instead of the model's output: of pairs of samples "cosine" or
            "distance" (squared, Euclidean), of one a template to be stored, "gallery".
        threshold: subtracted from what `match` computes of pairs.
        batch: samples that share one set of ciphertexts; takes longer than one of them, but not as
            many times.
        max_keys: rotation keys a plan may need; rare rotations are composed of others.
        bootstrap: whether values of a network that is too deep without may be refreshed.
        level_budget: primes a value may use between two refreshes, of which there are as many as
            that takes; 0: whatever is fastest, and none where none is needed.
        max_memory: bytes a run on one image may take, if a plan can be found that does.
        input_shapes: shapes for inputs whose ONNX shape is dynamic.
        outputs: names of ONNX values to compute instead of the model's outputs; what only others
            need is left out.
        passes: pipeline text, or empty for the default pipeline.
    """

    precision_bits: float = 8.0
    activation_error: float | None = None
    activations: Mapping[str, FunctionOptions] | str | Path = field(default_factory=dict)
    security_bits: int = 128
    insecure_toy: bool = False
    ring_dimension: int | None = None
    match: Match = ""
    threshold: float = 0.0
    batch: int = 1
    max_keys: int = 64
    bootstrap: bool = True
    level_budget: int = 0
    max_memory: int | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    passes: str = ""
