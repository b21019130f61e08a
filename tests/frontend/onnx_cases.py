"""The ONNX project's own cases of single operators, and what becomes of each of them here.

A case is a model with inputs and expected outputs. Its inputs that are real numbers are encrypted,
all together and one at a time; the others become constants of the model. So one case gives several
variants, and each of them is refused with an error for users, or computes what is expected. Nothing
else is caught: an exception that is no error for users is a fault of ours and stays one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

from fhecompile.errors import FheCompileError
from fhecompile.frontend import import_model
from fhecompile.frontend.lowering import sanitise
from fhecompile.frontend.operators import OPERATORS
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.program import Facts, Program
from fhecompile.ir.tensor import TensorGraph
from fhecompile.options import CompileOptions
from passes.infer_ranges import Calibration, InferRanges

FloatArray = NDArray[np.float64]
REAL = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True, eq=False)
class Variant:
    """A case with some of its inputs encrypted.

    Args:
        case: its name, without the `test_` that all have.
        encrypted: names of the encrypted inputs.
        model: the model with the other inputs as constants.
        inputs: one sample of each encrypted input, by the name of our input node.
        expected: the outputs by name.
        rtol: relative tolerance the case gives.
        atol: absolute one.
    """

    case: str
    encrypted: tuple[str, ...]
    model: onnx.ModelProto
    inputs: dict[str, FloatArray]
    expected: dict[str, NDArray[Any]]
    rtol: float
    atol: float

    @property
    def operators(self) -> set[str]:
        """The types of the nodes."""
        return {n.op_type for n in self.model.graph.node} - {"Constant"}


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a variant.

    Args:
        variant: the variant.
        graph: the imported graph; None when it was refused.
        refused: code and reason of the refusal.
        wrong: what differs from the expected outputs.
    """

    variant: Variant
    graph: TensorGraph | None = None
    refused: str = ""
    wrong: str = ""


def outcomes() -> Iterator[Outcome]:
    """Of every variant of every case, sorted by the case's name."""
    for case in sorted(load_model_tests(kind="node"), key=lambda case: case.name):
        model = case.model
        assert model is not None
        assert case.data_sets is not None
        for variant in _variants(case.name, model, case.data_sets[0], case.rtol, case.atol):
            yield _outcome(variant)


def _variants(
    name: str, model: onnx.ModelProto, data: Any, rtol: float, atol: float
) -> Iterator[Variant]:
    names = [i.name for i in model.graph.input]
    given = {n: _array(x) for n, x in zip(names, data[0], strict=False)}
    outputs = zip((o.name for o in model.graph.output), map(_array, data[1]), strict=False)
    expected = {n: x for n, x in outputs if x is not None}
    real = [
        i.name
        for i in model.graph.input
        if i.type.tensor_type.elem_type in REAL and given.get(i.name) is not None
    ]
    choices = [tuple(real)]
    if len(real) > 1 and {n.op_type for n in model.graph.node} <= {"Constant", *OPERATORS}:
        choices += [(n,) for n in real]
    for encrypted in choices:
        fixed = onnx.ModelProto()
        fixed.CopyFrom(model)
        constants = [n for n in names if n not in encrypted and given.get(n) is not None]
        # What is no tensor cannot be a constant: it stays an input, which is refused.
        del fixed.graph.input[:]
        fixed.graph.input.extend(i for i in model.graph.input if i.name not in constants)
        for n in constants:
            fixed.graph.initializer.append(numpy_helper.from_array(given[n], n))
        inputs = {sanitise(n): np.asarray(given[n], np.float64)[None] for n in encrypted}
        yield Variant(name.removeprefix("test_"), encrypted, fixed, inputs, expected, rtol, atol)


def _array(value: Any) -> NDArray[Any] | None:
    """A tensor as an array; None for sequences, optionals and what a case leaves out."""
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.ndarray | np.generic) else None


def _outcome(variant: Variant) -> Outcome:
    try:
        graph = import_model(variant.model.SerializeToString()).graph
        # Functions are defined on what the case gives, or the compiler says that they are not.
        facts = Facts([Calibration(variant.inputs)])
        InferRanges().run(Program(graph, CompileOptions(), facts))
    except FheCompileError as error:
        return Outcome(variant, refused=f"{error.code}: {_reason(error)}")
    return Outcome(variant, graph, wrong=_differences(variant, evaluate(graph, variant.inputs)))


def _reason(error: FheCompileError) -> str:
    """On one line, without counts and names of nodes: `2 x Abs: why (a, b)` is `Abs: why`."""
    lines = [line.strip() for line in error.reason.splitlines()]
    if error.code == "unsupported-operators":
        lines = [line.split(" x ", 1)[1].rpartition(" (")[0] for line in lines[1:]]
    return "; ".join(sorted(dict.fromkeys(lines)))


def _differences(variant: Variant, found: Mapping[str, FloatArray]) -> str:
    """Beyond the case's tolerance, or what the type in which it gives an output can tell.

    The outputs are computed in that type: an element whose summands cancel is exact to a few units
    of the largest elements at best.
    """
    problems = []
    for name, values in found.items():
        expected = variant.expected[name]
        unit = float(ml_dtypes.finfo(expected.dtype).eps)
        value = expected.astype(np.float64)
        rtol = max(variant.rtol, unit)
        atol = max(variant.atol, 4 * unit * float(np.abs(value).max(initial=0.0)))
        if values.shape[1:] != value.shape:
            problems.append(f"{name} has shape {values.shape[1:]}, not {value.shape}")
        elif not np.allclose(values[0], value, rtol=rtol, atol=atol):
            problems.append(f"{name} differs by {np.abs(values[0] - value).max():.2g}")
    return "; ".join(problems)


# ---------------------------------------------------------------------------- the list

HEAD = """# The ONNX project's cases of single operators

Written by `pytest tests/frontend/test_onnx_backend.py --update-golden`; do not edit. Every case of
`onnx.backend.test` (onnx {version}) is imported with its real inputs encrypted, all together and
one at a time, and the others constant. What is not refused is evaluated and compared with the
outputs the case gives, at its own tolerance (or four units in the last place of the largest
output, as the outputs are rounded). The smallest case of every set of operators is also
compiled and simulated, with noise and without.

{run} of {cases} cases run, in {run_variants} ways; the others are refused for the reason given.

## Run

Behind a case, the inputs that were encrypted.

"""


def render(found: Iterable[Outcome]) -> str:
    """The list of cases: those that run by operator, the others by the reason of the refusal."""
    cases: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in found:
        cases[outcome.variant.case].append(outcome)
    run: dict[str, list[str]] = defaultdict(list)
    refused: dict[str, list[str]] = defaultdict(list)
    variants = 0
    for case, of_case in cases.items():
        ran = [o.variant for o in of_case if o.graph is not None]
        variants += len(ran)
        if ran:
            inputs = " or ".join(" and ".join(v.encrypted) for v in ran)
            run[", ".join(sorted(ran[0].operators))].append(f"{case} ({inputs})")
        else:
            # The reason that holds for one encrypted input, where there are several.
            refused[of_case[min(1, len(of_case) - 1)].refused].append(case)
    count = len(cases) - sum(map(len, refused.values()))
    text = HEAD.format(version=onnx.__version__, run=count, cases=len(cases), run_variants=variants)
    text += "".join(f"- **{kind}**: {', '.join(run[kind])}\n" for kind in sorted(run))
    text += "\n## Refused\n\n"
    text += "".join(f"- {why}: {', '.join(refused[why])}\n" for why in sorted(refused))
    return text
