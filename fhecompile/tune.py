r"""Compiles one model for many precisions and numbers of keys, to see what each costs.

    frontend, passes before the parameters,
    the errors that noise and rounding cause    once; where functions are fitted as precisely as
                                                asked for, from there on for every precision
    parameters, scales, layouts, slot graph     for every precision
    limit_keys and what follows                 for every precision and number of keys

What a point cannot reach is said in its `reason`; it is no error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fhecompile.ckks.cost_table import BUILT_IN, CostTable
from fhecompile.compile import check_options, start
from fhecompile.errors import EXIT_BAD_INPUT, FheCompileError
from fhecompile.options import CompileOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fhecompile.ir.program import PassManager, Program
    from fhecompile.report.tuning import TunePoint


def tune(
    model: str | Path,
    calibration: Mapping[str, NDArray[Any]] | NDArray[Any] | str | Path | None,
    options: CompileOptions,
    precisions: Sequence[float],
    keys: Sequence[int],
    threads: int = 1,
    table: CostTable = BUILT_IN,
) -> Iterator[TunePoint]:
    """The points for all `precisions` and limits of `keys`, one after the other.

    Args:
        model, calibration: as for `fhecompile.compile.compile`.
        options: all but the precision and the number of keys.
        precisions: values of `precision_bits`.
        keys: values of `max_keys`.
        threads: threads the predicted seconds assume.
        table: costs that they are predicted from.

    Raises:
        FheCompileError: the model, its data or an option is wrong.
    """
    from fhecompile.activation_file import with_activations
    from fhecompile.ckks.parameters import Parameters
    from fhecompile.ir.program import PassManager
    from fhecompile.ir.tensor import Function
    from passes.select_parameters import SelectParameters, measure_errors

    options = with_activations(options)
    asked = [[replace(options, precision_bits=p, max_keys=k) for k in keys] for p in precisions]
    for wanted in (o for row in asked for o in row):
        check_options(wanted)
    passes, program = start(model, calibration, options)
    PassManager(passes).check(program.facts.kinds())
    chosen = next((k for k, p in enumerate(passes) if Parameters in p.gives), 0)
    limited = next((k for k, p in enumerate(passes) if p.name == "limit_keys"), len(passes))
    limited = max(chosen, limited)
    fitted = next((k for k, p in enumerate(passes[:chosen]) if p.name == "fit_functions"), chosen)
    program = PassManager(passes[:fitted]).run(program)
    if any(isinstance(node, Function) for node in program.graph):
        chosen = fitted
    else:
        program = PassManager(passes[fitted:chosen]).run(program)
        if isinstance(passes[chosen], SelectParameters):
            program = program.having(measure_errors(program))
    for row in asked:
        placed: Program | FheCompileError
        try:
            placed = PassManager(passes[chosen:limited]).run(replace(program, options=row[0]))
        except FheCompileError as error:
            placed = _unreachable(error)
        for wanted in row:
            yield _point(wanted, placed, PassManager(passes[limited:]), threads, table)


def _point(
    options: CompileOptions,
    placed: Program | FheCompileError,
    rest: PassManager,
    threads: int,
    table: CostTable,
) -> TunePoint:
    """What a plan costs, or why there is none."""
    from fhecompile.plan import Plan
    from fhecompile.plan.summary import summarise
    from fhecompile.report.tuning import TuneCost, TunePoint

    point = TunePoint(options.precision_bits, options.max_keys)
    if isinstance(placed, FheCompileError):
        return replace(point, reason=placed.reason)
    try:
        program = rest.run(replace(placed, options=options))
    except FheCompileError as error:
        return replace(point, reason=_unreachable(error).reason)
    plan = program.facts[Plan]
    summary, prediction = summarise(plan, 0, threads, table), plan.program.prediction
    cost = TuneCost(
        error=prediction.largest_error,
        output_range=prediction.output_range,
        levels=summary.levels,
        digits=summary.digits,
        ring_dimension=summary.ring_dimension,
        rotation_keys=summary.rotation_keys,
        key_bytes=summary.key_bytes,
        peak_bytes=prediction.peak_bytes,
        seconds=summary.seconds,
    )
    over = options.max_memory is not None and prediction.peak_bytes > options.max_memory
    return replace(point, cost=cost, reason="takes more than --max-memory" if over else "")


def _unreachable(error: FheCompileError) -> FheCompileError:
    """The error, if it says that these options cannot be met; else it is raised."""
    if error.exit_code != EXIT_BAD_INPUT:
        raise error
    return error
