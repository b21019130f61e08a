"""Reads one line of the text form (`fhecompile.ir.text`) from left to right, token by token."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.linear_map import LinearMap, LinearTerm
from fhecompile.errors import FheCompileError
from fhecompile.ir.tensor import Shape

Array = NDArray[Any]
Constants = Mapping[str, Array]

DTYPES = {"f64": np.float64, "f32": np.float32, "i64": np.int64, "i32": np.int32}
_NUMBER = r"\d{1,18}"


class Line:
    """A line and how far it has been read; blanks between tokens do not count.

    Every reader raises FheCompileError `ir-syntax` with the line's number when something else is
    there than what it reads.
    """

    def __init__(self, number: int, text: str, constants: Constants) -> None:
        self.number, self.text, self.constants = number, text, constants
        self.position = 0

    def fail(self, expected: str) -> NoReturn:
        """Raises: `expected` is not what comes next."""
        rest = self.text[self.position :].strip()
        found = repr(rest[:24] + ("..." if len(rest) > 24 else "")) if rest else "the end"
        self.refuse(f"expected {expected} instead of {found}")

    def refuse(self, reason: str) -> NoReturn:
        """Raises with the line's number."""
        raise FheCompileError(
            "ir-syntax",
            reason,
            node=f"line {self.number}",
            hint="the form is: %name = op(%operand, ...) {attribute=value, ...} : type  // layer",
        )

    def match(self, pattern: str, expected: str) -> re.Match[str]:
        """The next token, which must match `pattern`."""
        found = re.compile(rf"[ \t]*(?:{pattern})").match(self.text, self.position)
        if found is None:
            self.fail(expected)
        self.position = found.end()
        return found

    def accept(self, literal: str) -> bool:
        """Whether `literal` comes next; it is read if so."""
        found = re.compile(rf"[ \t]*{re.escape(literal)}").match(self.text, self.position)
        if found is not None:
            self.position = found.end()
        return found is not None

    def expect(self, *literals: str) -> None:
        """Reads these tokens."""
        for literal in literals:
            if not self.accept(literal):
                self.fail(repr(literal))

    def end(self) -> None:
        """The line must have been read to its end."""
        if self.text[self.position :].strip():
            self.fail("the end of the line")

    def name(self, expected: str = "a name") -> str:
        """The name of a node, an operation or an attribute."""
        return self.match(r"([A-Za-z0-9_.]+)", expected)[1]

    def integer(self) -> int:
        """A whole number, maybe negative."""
        return int(self.match(f"(-?{_NUMBER})", "a whole number")[1])

    def decimal(self, expected: str) -> float:
        """A decimal number."""
        pattern = r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
        return float(self.match(pattern, expected)[1])

    def value(self) -> Any:
        """A JSON value."""
        self.match("", "a value")
        try:
            value, self.position = json.JSONDecoder().raw_decode(self.text, self.position)
        except (ValueError, RecursionError):
            self.fail("a JSON value")
        return value

    def string(self) -> str:
        """A JSON string."""
        start, value = self.position, self.value()
        if not isinstance(value, str):
            self.position = start
            self.fail("a string")
        return value

    def shape(self) -> Shape:
        """A tensor's shape, 3x32x32."""
        pattern = rf"(scalar|{_NUMBER}(?:x{_NUMBER})*)"
        text = self.match(pattern, "a shape such as 1x3x32x32")[1]
        return () if text == "scalar" else tuple(map(int, text.split("x")))

    def items(self, opening: str, closing: str) -> Iterator[None]:
        """Yields before each item of a list; the caller reads the item."""
        self.expect(opening)
        if self.accept(closing):
            return
        while True:
            yield
            if self.accept(closing):
                return
            self.expect(",")

    def array(self) -> Array:
        """A constant, dtype[shape]#hash."""
        found = self.match(
            rf"((?:{'|'.join(DTYPES)})\[(?:{_NUMBER}(?:,{_NUMBER})*)?\])#([0-9a-f]+)",
            "a constant such as f64[16,1]#ab12cd34",
        )
        text, constant = found[0].strip(), self.constants.get(found[2])
        if constant is None:
            self.refuse(f"the constant {text} is not given")
        dtype = np.dtype(DTYPES[found[1].partition("[")[0]])
        shape = tuple(int(n) for n in found[1].partition("[")[2][:-1].split(",") if n)
        try:
            return np.ascontiguousarray(constant).reshape(-1).view(dtype).reshape(shape)
        except ValueError:
            self.refuse(f"the constant {text} has {constant.nbytes} bytes")

    def linear_map(self) -> LinearMap:
        """[(values, out_index, in_index), ...] : in_size -> out_size."""
        terms = []
        for _ in self.items("[", "]"):
            arrays = [self.array() for _ in self.items("(", ")")]
            if len(arrays) != 3:
                self.refuse(f"a term has {len(arrays)} arrays instead of 3")
            terms.append(LinearTerm(*arrays))
        self.expect(":")
        in_size = self.integer()
        self.expect("->")
        return LinearMap(tuple(terms), self.integer(), in_size)


def read_lines(text: str, constants: Constants) -> Iterator[Line]:
    """The lines of a text but for empty ones and comments."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("//"):
            yield Line(number, line, constants)


def read_head(lines: Iterator[Line], keyword: str) -> Line:
    """The first line behind its keyword."""
    line = next(lines, Line(1, "", {}))
    line.expect(keyword)
    return line
