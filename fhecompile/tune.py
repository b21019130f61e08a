r"""Compiles one model for many options, to see what each costs.

    frontend, passes before functions are fitted    once
    fitted functions, their accuracy                for every activation error, and where there are
                                                    functions for every precision
    errors that noise and rounding cause            once for every fitted network
    parameters, scales, layouts, slot graph         for every precision
    limit_keys and what follows                     for every number of keys

What a point cannot reach is said in its `reason`; it is no error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fhecompile.ckks.cost_table import BUILT_IN, CostTable
from fhecompile.compile import check_options, start
from fhecompile.errors import EXIT_BAD_INPUT, FheCompileError
from fhecompile.options import CompileOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fhecompile.frontend.labels import LabelSource
    from fhecompile.ir.accuracy import AccuracyTest, MeasuredSamples
    from fhecompile.ir.fitted_functions import FittedFunctions
    from fhecompile.ir.program import Pass, Program
    from fhecompile.report.tuning import TunePoint

    Samples = Mapping[str, NDArray[Any]] | NDArray[Any] | str | Path


@dataclass(frozen=True)
class Sweep:
    """Values of options; every combination of them is a point.

    Args:
        precisions: of `precision_bits`.
        keys: of `max_keys`.
        activation_errors: of `activation_error`; None: as the precision has it.
        is_measured: whether the accuracy of every fitted network is measured.
    """

    precisions: Sequence[float]
    keys: Sequence[int]
    activation_errors: Sequence[float | None] = (None,)
    is_measured: bool = False


class Tuning:
    """One model, prepared for many compilations.

    Args:
        model, calibration: as for `fhecompile.compile.compile`.
        options: all but those of the sweep.
        sweep: what to compile for.
        test: samples to measure accuracy on; None: the calibration samples.
        labels: classes of those samples (`fhecompile.frontend.labels`); None: there are none.

    Attributes:
        has_functions: whether there are activations that polynomials are fitted for.
        tested: what accuracy is measured on; None when it is not.
        warnings: what a user must know of the ranges of functions, when there are points.

    Raises:
        FheCompileError: the model, its data or an option is wrong.
    """

    def __init__(
        self,
        model: str | Path,
        calibration: Samples | None,
        options: CompileOptions,
        sweep: Sweep,
        *,
        test: Samples | None = None,
        labels: LabelSource | None = None,
    ) -> None:
        from fhecompile.ckks.parameters import Parameters
        from fhecompile.ir.program import PassManager
        from fhecompile.ir.tensor import Function

        for precision, error in product(sweep.precisions, sweep.activation_errors):
            for keys in sweep.keys:
                check_options(_asked(options, precision, error, keys))
        passes, given = start(model, calibration, options)
        self.options, self.sweep = given.options, sweep
        PassManager(passes).check(given.facts.kinds())
        chosen = next((k for k, p in enumerate(passes) if Parameters in p.gives), 0)
        limited = next((k for k, p in enumerate(passes) if p.name == "limit_keys"), len(passes))
        limited = max(chosen, limited)
        names = [p.name for p in passes[:chosen]]
        fitting = ("fit_functions", "fit_refreshes")
        fitted = next((k for k, name in enumerate(names) if name in fitting), chosen)
        self._fitting, self._placing = passes[fitted:chosen], passes[chosen:limited]
        self._ending = passes[limited:]
        self._program = PassManager(passes[:fitted]).run(given)
        self.has_functions = any(isinstance(node, Function) for node in self._program.graph)
        self.warnings: Sequence[str] = ()
        self.tested: MeasuredSamples | None = None
        self._test: AccuracyTest | None = None
        if sweep.is_measured:
            self._test, self.tested = _prepare_test(
                given, self._program, passes[:fitted], test, labels
            )
        if not self.has_functions:
            self._program = self._fit(self.options)

    @property
    def activation_errors(self) -> Sequence[float | None]:
        """Those of the sweep; just None where no function is fitted."""
        return self.sweep.activation_errors if self.has_functions else (None,)

    @property
    def count(self) -> int:
        """How many points there are."""
        sweep = self.sweep
        return len(sweep.precisions) * len(self.activation_errors) * len(sweep.keys)

    def points(self, threads: int = 1, table: CostTable = BUILT_IN) -> Iterator[TunePoint]:
        """A point for every combination, one after the other.

        Args:
            threads: threads the predicted seconds assume.
            table: costs that they are predicted from.
        """
        from fhecompile.ir.depth import measure_depth
        from fhecompile.ir.program import PassManager
        from fhecompile.report.tuning import TunePoint

        for precision, error in product(self.sweep.precisions, self.activation_errors):
            wanted = _asked(self.options, precision, error, self.sweep.keys[0])
            point = TunePoint(precision, self.sweep.keys[0], activation_error=error)
            placed: Program | FheCompileError
            try:
                fitted = self._fit(wanted) if self.has_functions else self._program
                point = replace(
                    point,
                    depth=measure_depth(fitted.graph).total,
                    functions=_functions(fitted).functions,
                )
                self.warnings = _functions(fitted).warnings
                if self._test is not None:
                    point = replace(point, accuracy=self._test.measure(fitted.graph))
                placed = PassManager(self._placing).run(replace(fitted, options=wanted))
            except FheCompileError as reason:
                placed = _unreachable(reason)
            for keys in self.sweep.keys:
                yield self._point(replace(point, max_keys=keys), wanted, placed, threads, table)

    def _fit(self, options: CompileOptions) -> Program:
        """The program before its parameters are chosen, with polynomials for functions."""
        from fhecompile.ir.program import PassManager
        from passes.select_parameters import SelectParameters, measure_errors

        fitted = PassManager(self._fitting).run(replace(self._program, options=options))
        if self._placing and isinstance(self._placing[0], SelectParameters):
            fitted = fitted.having(measure_errors(fitted))
        return fitted

    def _point(
        self,
        point: TunePoint,
        options: CompileOptions,
        placed: Program | FheCompileError,
        threads: int,
        table: CostTable,
    ) -> TunePoint:
        """The point with what its plan costs, or why there is none."""
        from fhecompile.ir.program import PassManager
        from fhecompile.plan import Plan
        from fhecompile.plan.summary import summarise
        from fhecompile.report.tuning import TuneCost

        if isinstance(placed, FheCompileError):
            return replace(point, reason=placed.reason)
        try:
            wanted = replace(options, max_keys=point.max_keys)
            program = PassManager(self._ending).run(replace(placed, options=wanted))
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


def _asked(
    options: CompileOptions, precision: float, error: float | None, keys: int
) -> CompileOptions:
    """The options of a point."""
    return replace(options, precision_bits=precision, activation_error=error, max_keys=keys)


def _functions(program: Program) -> FittedFunctions:
    from fhecompile.ir.fitted_functions import FittedFunctions

    return (
        program.facts[FittedFunctions] if FittedFunctions in program.facts else FittedFunctions(())
    )


def _prepare_test(
    given: Program,
    program: Program,
    passes: Sequence[Pass],
    test: Samples | None,
    labels: LabelSource | None,
) -> tuple[AccuracyTest, MeasuredSamples]:
    """What measures accuracy, and on what.

    Args:
        given: the imported model and its calibration samples.
        program: the same before functions are fitted.
        passes: those in between, which change samples as well: a batch is one of them.
        test, labels: see `Tuning`.
    """
    from fhecompile.frontend.calibration import load_calibration
    from fhecompile.frontend.labels import load_labels
    from fhecompile.ir.accuracy import (
        AccuracyTest,
        MeasuredSamples,
        count_classes,
        count_repeated,
        own_shape,
    )
    from fhecompile.ir.program import PassManager
    from passes.infer_ranges import Calibration, Ranges

    options, calibration = program.options, given.facts[Calibration]
    if options.match and (labels is not None or test is not None):
        raise FheCompileError(
            "labels-mismatch",
            f"accuracy is of classes, and --match {options.match} gives none",
            hint="leave --match out, or --test and --labels",
        )
    if labels is not None and test is None and calibration.synthetic:
        raise FheCompileError(
            "labels-mismatch",
            "there are labels, but no samples they belong to",
            hint="give the samples with --calibrate, or others with --test",
        )
    samples, inputs = calibration.inputs, program.facts[Calibration].inputs
    count = calibrated = len(next(iter(samples.values())))
    if test is not None:
        samples = load_calibration(test, given.graph)
        count = len(next(iter(samples.values())))
        calibrated = 0 if calibration.synthetic else count_repeated(samples, calibration.inputs)
        moved = PassManager([p for p in passes if Ranges not in p.gives])
        inputs = moved.run(given.having(Calibration(samples))).facts[Calibration].inputs
    graph, batch = program.graph, options.batch
    classes, known = count_classes(graph, batch), None
    if labels is not None:
        if not classes:
            shapes = (f"{o.label} {_shown(own_shape(o, batch))}" for o in graph.outputs())
            raise FheCompileError(
                "labels-mismatch",
                "labels need one output with a number per class, 1 x classes; the outputs are: "
                f"{', '.join(shapes)}",
                hint="leave --labels out, or give a network that classifies",
            )
        known = load_labels(labels, count, classes)
    measured = AccuracyTest(graph, inputs, count, batch, known)
    return measured, MeasuredSamples(count, calibrated, known is not None, measured.exact)


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a scalar"


def _unreachable(error: FheCompileError) -> FheCompileError:
    """The error, if it says that these options cannot be met; else it is raised."""
    if error.exit_code != EXIT_BAD_INPUT:
        raise error
    return error
