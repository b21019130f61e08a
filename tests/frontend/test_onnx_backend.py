"""The ONNX project's own node tests: import, evaluation, compilation and simulation.

Nothing is skipped by hand: `docs/onnx_backend_cases.md` lists what is refused, and why.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from fhecompile.compile import compile_model
from fhecompile.frontend.operators import OPERATORS
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.tensor import Function
from fhecompile.options import CompileOptions
from tests.frontend.onnx_cases import Outcome, outcomes, render
from tests.support import relative_error, run_slots

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of how onnx makes its cases
LIST = Path(__file__).resolve().parents[2] / "docs" / "onnx_backend_cases.md"
RING = 512
LARGEST = 1500  # elements of all values of a network that is simulated


@pytest.fixture(scope="module")
def found() -> list[Outcome]:
    return list(outcomes())


def test_every_case_that_is_not_refused_computes_what_is_expected(found: list[Outcome]) -> None:
    wrong = [f"{o.variant.case} {o.variant.encrypted}: {o.wrong}" for o in found if o.wrong]
    assert not wrong, "\n" + "\n".join(wrong)
    assert sum(o.graph is not None for o in found) > 550


def test_every_operator_with_a_case_runs_one(found: list[Outcome]) -> None:
    with_inputs = [o.variant.operators for o in found if o.variant.encrypted]
    single = {next(iter(kinds)) for kinds in with_inputs if len(kinds) == 1}
    run = {kind for o in found if o.graph is not None for kind in o.variant.operators}
    assert set(OPERATORS) & single <= run
    assert len(set(OPERATORS) & single) > 60


def test_the_list_of_cases_is_current(found: list[Outcome], request: pytest.FixtureRequest) -> None:
    text = render(found)
    if request.config.getoption("--update-golden"):
        LIST.write_text(text, encoding="utf-8")
        return
    listed = LIST.read_text(encoding="utf-8") if LIST.exists() else ""
    if listed and f"(onnx {onnx.__version__})" not in listed:
        pytest.skip(f"the list is of the cases of another onnx than {onnx.__version__}")
    assert text == listed, f"{LIST} is not current; --update-golden writes it"


def test_a_share_of_the_cases_is_compiled_and_simulated(found: list[Outcome]) -> None:
    """The smallest case of every set of operators without functions, with CKKS noise."""
    smallest: dict[frozenset[str], Outcome] = {}
    for outcome in sorted(found, key=_elements):
        if outcome.graph is None or _elements(outcome) > LARGEST:
            continue
        if not any(isinstance(node, Function) for node in outcome.graph):
            smallest.setdefault(frozenset(outcome.variant.operators), outcome)
    assert len(smallest) > 50
    options = CompileOptions(ring_dimension=RING, insecure_toy=True)
    wrong = []
    for outcome in smallest.values():
        variant, graph = outcome.variant, outcome.graph
        assert graph is not None
        plan = compile_model(variant.model.SerializeToString(), variant.inputs, options).plan
        expected = evaluate(graph, variant.inputs)
        for noise, bits in ((False, 20), (True, 8)):
            found_outputs = run_slots(plan, variant.inputs, noise=noise)
            for name, value in expected.items():
                error = relative_error(found_outputs[name], value)
                if not error <= 2.0**-bits:
                    wrong.append(f"{variant.case} {variant.encrypted}: {name} {error:.2g} {noise}")
    assert not wrong, "\n" + "\n".join(wrong)


def _elements(outcome: Outcome) -> int:
    return sum(node.size for node in outcome.graph) if outcome.graph is not None else 0
