"""Typed schema of a plan's program, strict in both directions (unknown fields are refused).

Numbers that can be derived (types of operations, shapes of slot vectors) are not stored. Bulk data
(weights, index runs) is in named arrays next to the program; the program refers to them by name.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import Any, Literal

import msgspec

from fhecompile.ckks.bootstrap import Bootstrap
from fhecompile.ckks.noise import PEAK_TO_RMS
from fhecompile.ckks.parameters import Parameters

FORMAT_VERSION = 6


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all records."""


class BootstrapInfo(Struct, frozen=True):
    """How values are refreshed; see `fhecompile.ckks.bootstrap.Bootstrap`."""

    encode_levels: int
    decode_levels: int
    terms: int


class ParametersInfo(Struct, frozen=True):
    """CKKS parameters; see `fhecompile.ckks.parameters.Parameters`."""

    ring_dimension: int
    levels: int
    prime_bits: int
    first_prime_bits: int
    digits: int
    security_bits: int
    insecure: bool
    bootstrap: BootstrapInfo | None = None

    def parameters(self) -> Parameters:
        """The parameters that are described."""
        values = msgspec.structs.asdict(self)
        if self.bootstrap is not None:
            values["bootstrap"] = Bootstrap(**msgspec.structs.asdict(self.bootstrap))
        return Parameters(**values)

    @staticmethod
    def of(parameters: Parameters) -> ParametersInfo:
        """The description of parameters."""
        values = {f.name: getattr(parameters, f.name) for f in fields(parameters)}
        if parameters.bootstrap is not None:
            values["bootstrap"] = BootstrapInfo(**asdict(parameters.bootstrap))
        return ParametersInfo(**values)


class DigitInfo(Struct, frozen=True, array_like=True):
    """See `fhecompile.ckks.layout.Digit`."""

    axis: int
    divisor: int
    radix: int
    place: Literal["slot", "ciphertext", "complex"]
    stride: int


class LayoutInfo(Struct, frozen=True):
    """See `fhecompile.ckks.layout.Layout`; the number of slots is the program's."""

    shape: tuple[int, ...]
    period: int
    digits: tuple[DigitInfo, ...]
    spill: int


class ViewInfo(Struct, frozen=True, array_like=True):
    """What a client encrypts of an input: all its elements, in row-major order, or a choice.

    `elements` names the array of the chosen ones, or is empty. Elements are those of a batch.
    """

    layout: int
    elements: str


class InputInfo(Struct, frozen=True):
    """An input of the network, in the shape of one sample; its parts are those of all views.

    `low` and `high` are its calibrated range.
    """

    name: str
    shape: tuple[int, ...]
    views: tuple[ViewInfo, ...]
    low: float
    high: float


class OutputInfo(Struct, frozen=True):
    """An output, in the shape of one sample; its layout is of a batch. See `InputInfo`."""

    name: str
    shape: tuple[int, ...]
    layout: int
    low: float
    high: float


class TermInfo(Struct, frozen=True, array_like=True):
    """Names of the three arrays of a `LinearTerm`."""

    values: str
    out_index: str
    in_index: str


class MapInfo(Struct, frozen=True):
    """A linear map between two layouts; `diagonals` names an int32 array (n, 3) of
    (accumulator, ciphertext, offset)."""

    layer: int
    source: int
    target: int
    packing: Literal["real", "direct", "pair", "fold"]
    window: int
    copies: int
    terms: tuple[TermInfo, ...]
    diagonals: str


class VectorInfo(Struct, frozen=True):
    """An elementwise constant: an array that broadcasts over the layout's shape."""

    values: str
    layout: int


class OperationInfo(Struct, frozen=True, array_like=True):
    """One operation; its id is its position. See `fhecompile.ckks.operations`."""

    op: str
    inputs: tuple[int, ...]
    attributes: dict[str, Any]
    layer: int


class LayerInfo(Struct, frozen=True):
    """A layer for reports: its name, the ONNX nodes it comes from, and its calibrated range.

    `noise` is the rms error that noise is expected to make in its value, `fitted` that of fitted
    functions on the calibration data (None inside of a polynomial that stands for one), both in
    the value's unit. `values` are the operations that make its value, one per ciphertext of
    `layout`; there are none where the value is never there as such.
    """

    name: str
    source: str
    op: str
    low: float
    high: float
    multiply_accumulates: int
    noise: float
    fitted: float | None
    layout: int
    values: tuple[int, ...]

    @property
    def largest(self) -> float:
        """The largest magnitude of its calibrated range."""
        return max(-self.low, self.high)

    @property
    def error(self) -> float:
        """The expected rms error of noise and of fitted functions."""
        return math.hypot(self.noise, self.fitted or 0.0)

    def bits(self, error: float) -> float | None:
        """log2(largest / error); None without an error or without a range."""
        return math.log2(self.largest / error) if error > 0 and self.largest > 0 else None


class SeriesInfo(Struct, frozen=True):
    """A Fourier series 2 Re sum_j c_j exp(i pi j m) for |m| <= `share`.

    `coefficients` names an array (2, terms + 1) of the real and imaginary parts of c.
    """

    coefficients: str
    share: float


class KeysInfo(Struct, frozen=True):
    """What key generation must make.

    `refreshes` are numbers of slots; the rotations of refreshes are among `rotations`.
    """

    rotations: tuple[int, ...]
    conjugation: bool
    relinearisation: bool
    refreshes: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Number of evaluation keys; refreshes switch to a sparse secret and back."""
        others = int(self.conjugation or bool(self.refreshes)) + int(self.relinearisation)
        return len(self.rotations) + others + (2 if self.refreshes else 0)


class PredictionInfo(Struct, frozen=True):
    """What the compiler expects of a run.

    `error` is that of noise (rms), `fitted_error` the largest that fitted functions make on the
    calibration data, `allowed_error` the largest that is promised, all in the unit of the outputs;
    `output_range` is the largest of these on the calibration data. `peak_bytes` are of a run on one
    image, without constants that it encodes ahead where memory is free.
    """

    error: float
    fitted_error: float
    allowed_error: float
    output_range: float
    peak_bytes: int
    multiplicative_depth: int

    @property
    def noise_error(self) -> float:
        """The largest error of noise."""
        return PEAK_TO_RMS * self.error

    @property
    def largest_error(self) -> float:
        """Of noise and fitted functions."""
        return self.fitted_error + self.noise_error


class Program(Struct, frozen=True):
    """Everything but bulk data."""

    format_version: int
    producer: str
    model_name: str
    model_sha256: str
    calibration: Literal["given", "synthetic"]
    parameters: ParametersInfo
    batch: int
    inputs: tuple[InputInfo, ...]
    outputs: tuple[OutputInfo, ...]
    layouts: tuple[LayoutInfo, ...]
    keys: KeysInfo
    maps: tuple[MapInfo, ...]
    vectors: tuple[VectorInfo, ...]
    layers: tuple[LayerInfo, ...]
    prediction: PredictionInfo
    operations: tuple[OperationInfo, ...]
    series: tuple[SeriesInfo, ...] = ()
