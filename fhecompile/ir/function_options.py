"""Which options a user gave for which function of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from fhecompile.errors import FheCompileError, InternalError
from fhecompile.ir.tensor import Function
from fhecompile.options import FunctionOptions


def options_by_function(
    given: Mapping[str, FunctionOptions] | str | Path, functions: Sequence[Function]
) -> dict[str, FunctionOptions]:
    """The options by node name, of those that have any.

    Args:
        given: by name of the ONNX node or of ours, or a pattern; of several that match the last
            one counts.
        functions: the functions that are to be fitted.

    Raises:
        FheCompileError: `activation-options`, a name that is no function's.
    """
    if not isinstance(given, Mapping):
        raise InternalError(f"{given} has not been read")
    found: dict[str, FunctionOptions] = {}
    for pattern, options in given.items():
        matching = [
            node.name
            for node in functions
            if any(fnmatchcase(name, pattern) for name in (node.name, *node.source.split()))
        ]
        if not matching:
            names = ", ".join(node.source or node.name for node in functions) or "none"
            raise FheCompileError(
                "activation-options",
                f"no function that is to be fitted is called {pattern}",
                hint=f"there are: {names}",
            )
        found |= dict.fromkeys(matching, options)
    return found
