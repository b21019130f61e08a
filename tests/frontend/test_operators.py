"""The table of operators, and its copy in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import defs

from fhecompile.frontend.load import OPSETS
from fhecompile.frontend.operators import OPERATORS, describe_operators
from fhecompile.frontend.unsupported import SUGGESTIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operators.md"
HEAD = f"""# Operators

Written by `pytest tests/frontend/test_operators.py --update-golden` from what `fhecompile ops`
prints; do not edit. Opsets {OPSETS[0]} to {OPSETS[-1]} are read. Operators whose operands are all
constant are evaluated by ONNX's own reference when the model is imported, whatever they are.

## Compiled

One operand at least is encrypted. Without a remark, all of the operator is compiled.

| operator | from opset | |
|---|---|---|
"""
REFUSED = """
## Refused

What is not listed is refused, too: rewrite the network with supported operators, or take it off the
exported model.

| operator | instead |
|---|---|
"""


def test_the_page_is_current(request: pytest.FixtureRequest) -> None:
    described = describe_operators()
    text = HEAD
    text += "".join(f"| {e.name} | {e.opset} | {e.text} |\n" for e in described if e.supported)
    text += REFUSED
    text += "".join(f"| {e.name} | {e.text} |\n" for e in described if not e.supported)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text, f"{PAGE}: --update-golden writes it"


@pytest.mark.parametrize("name", [*OPERATORS, *SUGGESTIONS])
def test_every_name_is_an_operator_of_onnx(name: str) -> None:
    domain, _, kind = name.rpartition("::")
    assert defs.has(kind, domain)


@pytest.mark.parametrize("name", [name for name in OPERATORS if "::" not in name])
def test_first_opsets(name: str) -> None:
    """The first opset is one that has the operator, and there is none before, or it differs."""
    since = OPERATORS[name].since
    assert since in OPSETS
    assert defs.has(name, max_inclusive_version=since)
    if since > OPSETS[0] and defs.has(name, max_inclusive_version=since - 1):
        before = defs.get_schema(name, since - 1, "")
        assert before.since_version < defs.get_schema(name, since, "").since_version
