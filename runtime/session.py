"""Running a plan: `run` for one call, `InferenceSession` for many.

clear      the plan's operations on exact slot vectors (numpy)
simulate   the same with CKKS noise
encrypt    OpenFHE: this process plays client and server
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.cost_table import BUILT_IN
from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime.client import assemble_outputs, check_secure, input_scales, pack_input
from runtime.constants import ConstantStore
from runtime.costs import CostsWarning, evaluation_threads, find_costs
from runtime.executor import Executor, Progress
from runtime.inputs import CalibrationWarning, RangeReport, check_inputs, check_outputs
from runtime.machine import limit_memory, predict_peak
from runtime.processor import usable_cores
from runtime.samples import is_single, make_batches, shape_outputs, take_samples
from runtime.trace import Execution

if TYPE_CHECKING:
    from runtime.precision import LayerPrecision, PrecisionProbe
    from runtime.ranges import RangeWatch
    from runtime.session_folder import SessionFolder

Sample = tuple[NDArray[np.float64], ...]  # a sample's inputs in the plan's order
Begin = Callable[[float, float], None]  # the share that is done already, predicted seconds
Mode = Literal["clear", "simulate", "encrypt"]
MODES: tuple[Mode, ...] = ("clear", "simulate", "encrypt")


@dataclass(frozen=True)
class NodeArg:
    """Name, shape and type of an input or output, as ONNX Runtime shows them."""

    name: str
    shape: list[int]
    type: str = "tensor(float)"


@dataclass
class Timings:
    """Seconds per phase, of the last call (keygen: of the session).

    A call has one execution for all its samples, or one for as many as are in flight together.
    """

    keygen: float = 0.0
    encrypt: float = 0.0
    evaluate: float = 0.0
    decrypt: float = 0.0
    executions: list[Execution] = field(default_factory=list)

    def seconds_by_operation(self) -> dict[str, float]:
        """Thread-seconds spent in each kind of operation, over all executions."""
        total: dict[str, float] = {}
        for execution in self.executions:
            for op, seconds in execution.seconds_by_operation().items():
                total[op] = total.get(op, 0.0) + seconds
        return total


class InferenceSession:
    """Executes a plan; modelled on `onnxruntime.InferenceSession`.

    Args:
        plan: a plan or the path of one.
        mode: "clear", "simulate" or "encrypt".
        threads: threads to evaluate on; default: the measured choice (`runtime.costs`), otherwise
            all cores this process may use.
        ignore_range: warn of inputs far outside the calibrated range instead of refusing them.
        insecure_toy: accept a plan whose parameters are not secure.
        progress: called with the share of a call's evaluation that is done.
        in_flight: encrypted images evaluated at once at most, sharing the encoded constants;
            default: as many as memory allows.
        cache_constants: bytes of encoded constants kept for later images; 0 or None: none.
        max_memory: most bytes this process may hold in encrypted runs, with evaluation keys on disk
            (in TMPDIR) where not all fit (`runtime.key_stages`); default: what is free.
        begin: called before each encrypted evaluation, with the share that checkpoints hold and
            the predicted seconds of all of it.
        checkpoint: a folder for the keys, and for the encrypted inputs and checkpoints of a call
            that is under way; a session that is opened on it later goes on with that call, which
            is to be made first (`runtime.session_folder`). "encrypt" only.
        precision: measure the noise of every layer of each call (`runtime.precision`). An encrypted
            session decrypts layers for that, with the secret key that it holds, and takes longer.

    Raises:
        FheCompileError: the plan does not load, OpenFHE is missing, or memory does not suffice.
    """

    def __init__(
        self,
        plan: Plan | str | Path,
        mode: Mode = "encrypt",
        *,
        threads: int | None = None,
        ignore_range: bool = False,
        insecure_toy: bool = False,
        progress: Progress | None = None,
        in_flight: int | None = None,
        cache_constants: int | None = None,
        max_memory: int | None = None,
        begin: Begin | None = None,
        checkpoint: str | Path | None = None,
        precision: bool = False,
    ) -> None:
        if precision and mode == "clear":
            raise FheCompileError(
                "clear-precision",
                "a clear run has no noise that could be measured",
                hint="measure in the modes simulate or encrypt",
            )
        if mode not in MODES:
            raise FheCompileError(
                "unknown-mode", f"there is no mode {mode}", hint=f"modes are: {', '.join(MODES)}"
            )
        if checkpoint is not None and mode != "encrypt":
            raise FheCompileError(
                "checkpoint-mode",
                f"checkpoints hold ciphertexts, and mode {mode} has none",
                hint="leave --checkpoint out, or run with --mode encrypt",
            )
        self.plan = plan if isinstance(plan, Plan) else Plan.load(plan)
        self.mode = mode
        costs, ignored = find_costs()
        if ignored:
            warnings.warn(ignored, CostsWarning, stacklevel=2)
        self._table = BUILT_IN if costs is None else costs.table
        self._wide = threads is None and costs is not None and costs.openmp_threads > 1
        chosen = evaluation_threads(costs) if mode == "encrypt" else usable_cores()
        self.threads = threads or chosen
        self.ignore_range = ignore_range
        self.progress, self.begin = progress, begin
        self.timings = Timings()
        self.outside = RangeReport()  # what left its calibrated range, in any call
        if mode == "encrypt":
            check_secure(self.plan, insecure_toy)
            self._open_encrypted(in_flight, cache_constants, max_memory, checkpoint)
        else:
            self._open_numpy()
        self._probe: PrecisionProbe | None = None
        if precision:
            self._open_probe()

    def get_inputs(self) -> list[NodeArg]:
        """The inputs, in order."""
        return [NodeArg(t.name, list(t.shape)) for t in self.plan.program.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The outputs, in order."""
        return [NodeArg(t.name, list(t.shape)) for t in self.plan.program.outputs]

    def run(
        self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]
    ) -> list[NDArray[np.float32]]:
        """The named outputs in that order (None: all), as float32 arrays of their shapes.

        Several samples along one more leading axis of every input give one more leading axis of
        every output (or fill a leading axis of length 1).
        """
        known = [t.name for t in self.plan.program.outputs]
        for name in output_names or []:
            if name not in known:
                raise FheCompileError(
                    "output-name",
                    f"there is no output {name}",
                    hint=f"the outputs are: {', '.join(known)}",
                )
        tensors = check_inputs(self.plan, feeds, self.ignore_range, self.outside)
        self.timings.encrypt = self.timings.evaluate = self.timings.decrypt = 0.0
        self.timings.executions = []
        batches = [make_batches(x, self.plan.program.batch) for x in tensors]
        if self._probe is not None:
            self._probe.expect(batches)
        if self.mode == "encrypt":
            outputs = self._run_encrypted(batches)
        else:
            outputs = self._run_numpy(batches)
        outputs = take_samples(outputs, len(tensors[0]) if tensors else 1)
        if self._probe is not None and self.mode == "encrypt":
            self._tell_ranges(self._probe.ranges)
        looked = self.mode != "encrypt" or self._probe is not None
        check_outputs(self.plan, outputs, self.outside, looked)
        shaped = shape_outputs(self.plan, outputs, is_single(self.plan, feeds))
        return [shaped[name] for name in (known if output_names is None else output_names)]

    def precision(self) -> tuple[LayerPrecision, ...]:
        """The noise of every layer in the last call, of a session opened with `precision`."""
        if self._probe is None:
            raise FheCompileError(
                "no-precision",
                "this session does not measure precision",
                hint="open it with precision=True",
            )
        return self._probe.layers()

    def close(self) -> None:
        """Frees keys and constants."""
        if self.mode == "encrypt":
            self._server.close()
            if self._folder is not None:
                self._folder.close()
        else:
            self._constants.close()

    def __enter__(self) -> InferenceSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_numpy(self) -> None:
        from runtime.backends.clear import ClearBackend
        from runtime.backends.simulate import SimulateBackend

        kind = SimulateBackend if self.mode == "simulate" else ClearBackend
        self._constants = ConstantStore(self.plan)
        self._backend = kind(self.plan, self._constants)
        self._executor = Executor(self.plan, self._backend, self.threads, self._table)

    def _run_numpy(self, tensors: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        """Outputs (batches, batch, *shape) for inputs of such shapes."""
        from runtime.backends.simulate import SimulateBackend

        started = time.perf_counter()
        scales = input_scales(self.plan)
        slots: dict[tuple[int, int], Any] = {}
        for number, value in enumerate(tensors):
            packed = pack_input(self.plan, number, value).astype(np.complex128)
            for part in range(packed.shape[-2]):
                vector = packed[..., part, :]
                if isinstance(self._backend, SimulateBackend):
                    vector = self._backend.encrypt(vector, scales[number, part])
                slots[number, part] = vector
        self.timings.encrypt = time.perf_counter() - started
        (outputs,), execution = self._executor.run_images(
            [slots], self.progress, executions=self.timings.executions
        )
        self._tell_ranges(self._backend.ranges)
        self.timings.evaluate = execution.seconds
        return assemble_outputs(self.plan, outputs)

    def _open_probe(self) -> None:
        from runtime.precision import PrecisionProbe

        if self.mode == "encrypt":
            self._probe = PrecisionProbe(self.plan, self.threads, self._client.secret.decrypt)
            self._server.executor.observe = self._probe.see
        else:
            self._probe = PrecisionProbe(self.plan, self.threads)
            self._executor.observe = self._probe.see

    def _tell_ranges(self, ranges: RangeWatch) -> None:
        for place, text in ranges.complaints():
            self.outside.warn(place, f"{text}; results may be wrong")

    def _open_encrypted(
        self,
        in_flight: int | None,
        cache_constants: int | None,
        max_memory: int | None,
        checkpoint: str | Path | None,
    ) -> None:
        from runtime.client import Client
        from runtime.library import load_openfhe
        from runtime.server import Server
        from runtime.session_folder import SessionFolder

        load_openfhe()
        memory = limit_memory(
            self.plan, cache_constants, in_flight, max_memory=max_memory, makes_keys=True
        )
        self.predicted_peak_bytes = predict_peak(self.plan, memory)
        started = time.perf_counter()
        self._folder = SessionFolder(Path(checkpoint), self.plan) if checkpoint else None
        with contextlib.ExitStack() as stack:
            if self._folder is not None:
                stack.callback(self._folder.close)
                self._client, context = self._folder.load_keys(self.plan, memory.keys)
            else:
                self._client, context = Client.create(self.plan, self.threads, memory.keys)
            self._server = Server(self.plan, context, self.threads, memory, self._table, self._wide)
            stack.pop_all()
        self.timings.keygen = time.perf_counter() - started

    def _run_encrypted(self, tensors: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        """See `_run_numpy`."""
        if self._folder is not None:
            return self._run_checkpointed(self._folder, tensors)
        samples = list(zip(*tensors, strict=True))
        together = self._server.memory.in_flight
        if self.begin is not None:
            self.begin(0.0, len(samples) * self._server.executor.predicted_seconds)
        outputs: list[list[NDArray[np.float64]]] = []
        for start in range(0, len(samples), together):
            chunk = samples[start : start + together]
            if self._probe is not None:
                self._probe.first = start
            outputs += self._run_together(
                chunk, part_of(self.progress, start, len(chunk), len(samples))
            )
        return [np.stack(column) for column in zip(*outputs, strict=True)]

    def _run_together(
        self, samples: Sequence[Sample], progress: Progress | None
    ) -> list[list[NDArray[np.float64]]]:
        """Outputs of batches evaluated at the same time."""
        t0 = time.perf_counter()
        ciphertexts = [self._client.encrypt(dict(enumerate(sample))) for sample in samples]
        t1 = time.perf_counter()
        outputs, _ = self._server.evaluate_images(
            ciphertexts, progress, executions=self.timings.executions
        )
        t2 = time.perf_counter()
        decrypted = [self._client.decrypt(image) for image in outputs]
        t3 = time.perf_counter()
        self.timings.encrypt += t1 - t0
        self.timings.evaluate += t2 - t1
        self.timings.decrypt += t3 - t2
        return decrypted

    def _run_checkpointed(
        self, folder: SessionFolder, tensors: list[NDArray[np.float64]]
    ) -> list[NDArray[np.float64]]:
        """See `_run_numpy`."""
        from runtime.roles import evaluate_batches

        t0 = time.perf_counter()
        with folder.open_run(self._client, self._server.context, tensors) as (inputs, checkpoints):
            t1 = time.perf_counter()
            outputs = evaluate_batches(
                *(self._server, inputs, self.progress, self.begin),
                *(checkpoints, self.timings.executions),
            )
            t2 = time.perf_counter()
            decrypted = [self._client.decrypt(image) for image in outputs]
        self.timings.encrypt, self.timings.evaluate = t1 - t0, t2 - t1
        self.timings.decrypt = time.perf_counter() - t2
        return [np.stack(column) for column in zip(*decrypted, strict=True)]


def part_of(progress: Progress | None, done: float, count: float, total: float) -> Progress | None:
    """What reports the share of `total` samples, given that of `count` ones after `done` others."""
    if progress is None:
        return None
    report = progress
    return lambda share: report((done + share * count) / total)


def run(
    plan: Plan | str | Path,
    inputs: Mapping[str, Any] | NDArray[Any],
    mode: Mode = "encrypt",
    *,
    threads: int | None = None,
    ignore_range: bool = False,
    insecure_toy: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """Executes a plan once and returns the outputs by name.

    Args:
        plan: a plan or the path of one.
        inputs: arrays by input name, or one array when there is one input.
        mode: "encrypt" makes keys, encrypts, evaluates and decrypts, all in this process;
            "simulate" and "clear" run the same operations on numpy arrays.
        threads: threads to evaluate on.
        ignore_range: warn of inputs far outside the calibrated range instead of refusing them.
        insecure_toy: accept a plan whose parameters are not secure.
    """
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    names = [t.name for t in plan.program.inputs]
    if not isinstance(inputs, Mapping):
        if len(names) != 1:
            raise FheCompileError(
                "input-name",
                "one array is given for several inputs",
                hint=f"give a mapping with: {', '.join(names)}",
            )
        inputs = {names[0]: inputs}
    with warnings.catch_warnings():  # the session warns; this fails before keys are made
        warnings.simplefilter("ignore", CalibrationWarning)
        check_inputs(plan, inputs, ignore_range)
    with InferenceSession(
        plan, mode, threads=threads, ignore_range=ignore_range, insecure_toy=insecure_toy
    ) as session:
        values = session.run(None, inputs)
        return {t.name: v for t, v in zip(session.get_outputs(), values, strict=True)}
