"""The roles on files: who has which file can do which step, on a machine of its own.

make keys   plans                                -> secret.key, public.key, evaluation.keys
encrypt     plan, public.key                     -> encrypted inputs
evaluate    plan, evaluation.keys, inputs        -> encrypted outputs
decrypt     plan, secret.key, encrypted outputs  -> outputs

Every file names the parameters, the key and, if it holds ciphertexts, the plan it belongs to, and
what does not fit together is refused before anything is computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.plan import Plan
from fhecompile.plan.files import check_writable
from runtime.bundle import Bundle
from runtime.checkpoint import CheckpointFolder, open_checkpoints
from runtime.ciphertext_files import (
    count_batches,
    open_ciphertexts,
    read_batch,
    write_ciphertexts,
)
from runtime.client import PartKey, decrypt_outputs, encrypt_inputs
from runtime.costs import evaluation_threads, find_costs
from runtime.inputs import RangeReport, check_inputs, check_outputs
from runtime.key_files import load_evaluation_keys, load_public, load_secret, open_staged_keys
from runtime.keys import ServerContext
from runtime.machine import MemoryShares, check_memory, limit_memory, share_memory
from runtime.samples import is_single, make_batches, shape_outputs, take_samples
from runtime.server import Server
from runtime.session import Begin, part_of
from runtime.snapshots import Recorder
from runtime.trace import Execution

Progress = Callable[[float], None]


def encrypt_file(
    plan: Plan,
    public_key: Path,
    feeds: Mapping[str, Any],
    output: Path,
    *,
    ignore_range: bool = False,
    report: RangeReport | None = None,
) -> int:
    """Encrypts inputs into a file; returns how many samples they are.

    Args:
        plan: the plan.
        public_key: the file public.key.
        feeds: arrays by input name, see `runtime.inputs.check_inputs`.
        output: the file to write.
        ignore_range: warn of inputs far outside the calibrated range instead of refusing them.
        report: of a session of many files; warnings it has given are not repeated.
    """
    check_writable(output, "--output")
    tensors = check_inputs(plan, feeds, ignore_range, report)
    public = load_public(plan, public_key)
    samples = len(tensors[0]) if tensors else 1
    batched = [make_batches(x, plan.program.batch) for x in tensors]
    # One batch at a time: the ciphertexts of a thousand samples are more than memory holds.
    batches = (
        encrypt_inputs(plan, public, dict(enumerate(values)))
        for values in zip(*batched, strict=True)
    )
    marked = 0 if is_single(plan, feeds) else samples
    write_ciphertexts(output, "inputs", plan, public.public_key.GetKeyTag(), batches, marked)
    return samples


def evaluate_file(
    plan: Plan,
    evaluation_keys: Path,
    inputs: Path,
    output: Path,
    *,
    threads: int | None = None,
    in_flight: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
    begin: Begin | None = None,
    checkpoint: Path | None = None,
    executions: list[Execution] | None = None,
) -> float:
    """Evaluates a plan on a file of encrypted inputs; returns the seconds it took.

    Args:
        plan: the plan.
        evaluation_keys: the file evaluation.keys.
        inputs: encrypted inputs.
        output: the file to write.
        threads: threads to evaluate on; default: as measured, otherwise all cores.
        in_flight: batches evaluated at once at most; default: as many as memory allows.
        max_memory: most bytes the process may hold, see `runtime.session.InferenceSession`.
        progress: called with the share of the evaluation that is done.
        begin: called once before, with the share that is done already and the predicted seconds.
        checkpoint: a folder to keep checkpoints in, and to go on from them (`runtime.checkpoint`).
        executions: takes how the evaluation went, whether or not it ends well.
    """
    check_writable(output, "--output")
    with contextlib.ExitStack() as stack:
        memory = limit_memory(plan, None, in_flight, max_memory=max_memory)
        context: ServerContext
        if memory.keys is None:
            context = load_evaluation_keys(plan, evaluation_keys)
        else:
            context = open_staged_keys(plan, evaluation_keys, memory.keys)
        stack.callback(context.release)
        bundle = stack.enter_context(open_ciphertexts(inputs, "inputs", plan, context.key_tag))
        kept = None
        if checkpoint is not None:
            kept = stack.enter_context(open_checkpoints(checkpoint, plan, context, bundle))
        outputs, seconds = evaluate_bundle(
            plan, context, bundle, memory, threads, progress, begin, kept, executions
        )
        samples = bundle.manifest.samples
        write_ciphertexts(output, "outputs", plan, context.key_tag, outputs, samples)
        if kept is not None:
            kept.clear()
    return seconds


def evaluation_memory(plan: Plan) -> MemoryShares:
    """How an evaluation uses memory that has all keys in it, before these are read.

    Raises when there is too little.
    """
    check_memory(plan)
    return share_memory(plan)


def evaluate_bundle(
    plan: Plan,
    context: ServerContext,
    inputs: Bundle,
    memory: MemoryShares,
    threads: int | None = None,
    progress: Progress | None = None,
    begin: Begin | None = None,
    checkpoints: CheckpointFolder | None = None,
    executions: list[Execution] | None = None,
) -> tuple[list[dict[PartKey, Any]], float]:
    """Output ciphertexts of each batch of encrypted inputs, and the seconds it took.

    Args:
        plan: the plan.
        context: the evaluation keys, which stay.
        inputs: what `open_ciphertexts` has opened.
        memory: from `evaluation_memory`.
        checkpoints: of these inputs.
        threads, progress, begin, executions: see `evaluate_file`.
    """
    costs, _ = find_costs()
    wide = threads is None and costs is not None and costs.openmp_threads > 1
    server = Server(plan, context, threads or evaluation_threads(costs), memory, wide=wide)
    runs: list[Execution] = [] if executions is None else executions
    try:
        outputs = evaluate_batches(server, inputs, progress, begin, checkpoints, runs)
    finally:
        server.free_constants()
    return outputs, sum(execution.seconds for execution in runs)


def evaluate_batches(
    server: Server,
    inputs: Bundle,
    progress: Progress | None,
    begin: Begin | None,
    checkpoints: CheckpointFolder | None,
    executions: list[Execution],
) -> list[dict[PartKey, Any]]:
    """Output ciphertexts of each batch; the arguments are those of `evaluate_bundle`."""
    plan, executor = server.plan, server.executor
    outputs: list[dict[PartKey, Any]] = []
    count = count_batches(inputs, plan)
    if begin is not None:
        share = 0.0 if checkpoints is None else checkpoints.share(executor.weights, count)
        begin(share, count * executor.predicted_seconds)
    for start in range(0, count, server.memory.in_flight):
        numbers = range(start, min(start + server.memory.in_flight, count))
        batches = [read_batch(inputs, n, "inputs", plan, server.context.context) for n in numbers]
        recorder = None
        if checkpoints is not None:
            recorder = Recorder(executor.nodes, executor.weights, checkpoints, start)
        of_these = part_of(progress, start, len(numbers), count)
        outputs += server.evaluate_images(batches, of_these, recorder, executions)[0]
    return outputs


def decrypt_file(
    plan: Plan, secret_key: Path, outputs: Path, report: RangeReport | None = None
) -> dict[str, NDArray[np.float32]]:
    """Decrypts a file of encrypted outputs: arrays by output name.

    Args:
        plan: the plan.
        secret_key: the file secret.key.
        outputs: encrypted outputs.
        report: of a session of many files; warnings it has given are not repeated.
    """
    secret = load_secret(plan, secret_key)
    with open_ciphertexts(outputs, "outputs", plan, secret.secret_key.GetKeyTag()) as bundle:
        batches = [
            decrypt_outputs(
                plan, secret, read_batch(bundle, number, "outputs", plan, secret.context)
            )
            for number in range(count_batches(bundle, plan))
        ]
        samples = bundle.manifest.samples
    stacked = [np.stack(column) for column in zip(*batches, strict=True)]
    values = take_samples(stacked, max(1, samples))
    check_outputs(plan, values, report)
    return shape_outputs(plan, values, single=samples == 0)
