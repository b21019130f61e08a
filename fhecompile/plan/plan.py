"""A plan in memory: the typed program, its arrays, and the objects they describe."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.diagonals import Diagonal, DiagonalMap
from fhecompile.ckks.layout import Layout
from fhecompile.ckks.linear_map import LinearMap, LinearTerm
from fhecompile.ckks.operations import ValueType
from fhecompile.ckks.parameters import Parameters
from fhecompile.errors import FheCompileError
from fhecompile.plan.container import Arrays, digest, encode_container, read_container
from fhecompile.plan.files import write_atomically
from fhecompile.plan.schema import FORMAT_VERSION, Program
from fhecompile.plan.validate import check_program, make_layouts


@dataclass(eq=False)
class Plan:
    """A validated plan. Build one with `Plan.load`, or with the compiler."""

    program: Program
    arrays: Arrays

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Reads and validates a plan file; raises FheCompileError with one clear reason."""
        path = Path(path)
        text, arrays = read_container(path, FORMAT_VERSION)
        try:
            program = msgspec.json.decode(text, type=Program)
        except (msgspec.DecodeError, RecursionError) as error:
            raise FheCompileError(
                "plan-invalid", f"the plan's program is not valid: {error}", node=str(path)
            ) from error
        plan = Plan(program, arrays)
        try:
            plan.validate()
        except ValueError as error:
            raise FheCompileError(
                "plan-invalid", f"the plan's program is not valid: {error}", node=str(path)
            ) from error
        return plan

    def save(self, path: str | Path) -> int:
        """Writes the plan file (atomically); returns its size in bytes."""
        data = self.encode()
        write_atomically(Path(path), data)
        return len(data)

    def encode(self) -> bytes:
        """The bytes of the plan file."""
        return encode_container(FORMAT_VERSION, msgspec.json.encode(self.program), self.arrays)

    @cached_property
    def digest(self) -> str:
        """SHA-256 that tells this plan from others; keys and ciphertexts name it."""
        return digest(msgspec.json.encode(self.program), self.arrays)

    def validate(self) -> None:
        """Checks every reference, layout and operation; ValueError with the first problem."""
        layouts, types = check_program(self.program, self.arrays)
        self.__dict__.update(layouts=layouts, types=types)

    @cached_property
    def types(self) -> list[ValueType]:
        """Type of every operation's value."""
        return check_program(self.program, self.arrays)[1]

    @cached_property
    def parameters(self) -> Parameters:
        """The CKKS parameters."""
        return self.program.parameters.parameters()

    @cached_property
    def layouts(self) -> list[Layout]:
        """All layouts, by number."""
        return make_layouts(self.program)

    @cached_property
    def maps(self) -> list[tuple[DiagonalMap, list[Diagonal]]]:
        """All linear maps with their numbered diagonals."""
        found = []
        for info in self.program.maps:
            source, target = self.layouts[info.source], self.layouts[info.target]
            terms = tuple(
                LinearTerm(
                    np.asarray(self.arrays[t.values], np.float64),
                    np.asarray(self.arrays[t.out_index], np.int32),
                    np.asarray(self.arrays[t.in_index], np.int32),
                )
                for t in info.terms
            )
            linear = LinearMap(terms, target.size, source.size)
            diagonals = [Diagonal(*map(int, row)) for row in self.arrays[info.diagonals]]
            dm = DiagonalMap(linear, source, target, info.packing, info.window, info.copies)
            found.append((dm, diagonals))
        return found

    def series(self, number: int) -> NDArray[np.float64]:
        """Coefficients of a Fourier series, (2, terms + 1), real and imaginary parts."""
        return np.asarray(self.arrays[self.program.series[number].coefficients], np.float64)

    def vector(self, number: int, part: int) -> NDArray[np.float64] | NDArray[np.complex128]:
        """Slot vector of an elementwise constant for one ciphertext of its tensor."""
        info = self.program.vectors[number]
        layout = self.layouts[info.layout]
        values = np.asarray(self.arrays[info.values], np.float64)
        packed = layout.pack(np.broadcast_to(values, layout.shape))
        chosen: NDArray[np.float64] | NDArray[np.complex128] = packed[part]
        return chosen
