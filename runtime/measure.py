r"""Times CKKS operations on OpenFHE the way a run executes them: one per thread, all cores at work.

Each round, every thread does the same operation on ciphertexts of its own, all starting together;
a round's time is the mean over the threads, an operation's that of its best round. It is processor
time of the thread, which an operation without OpenMP threads has for itself: other programs may
run. Rounds go through all operations before the next one begins.

Throughput is that of a small mix of operations: two rotations, four products with a fresh constant
and one square, roughly what a network spends its time on.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from fhecompile.ckks.parameters import Parameters
from fhecompile.plan.schema import KeysInfo
from runtime.backends.encoder import encode_vector
from runtime.backends.openmp import allow_inner_threads
from runtime.fit import Measurement
from runtime.keys import SecretContext, ServerContext, generate_keys
from runtime.library import load_openfhe, wrapped

LEVELS = 12  # rescaling primes, as in a network of moderate depth
MEASURED_LEVELS = (0, 6, 10)
DIGITS = (1, 3)
ROUNDS = 3
SHORTEST_SECONDS = 0.02  # of a round: quicker operations are repeated in it
MIX = {"rotate": 2, "mul_plain": 4, "square": 1}
KEYS = KeysInfo((1,), False, True)

Task = Callable[[], Any]


def calibration_parameters(ring_dimension: int, digits: int) -> Parameters:
    """What operations are measured with; a ring too small to be secure is fine for timing."""
    parameters = Parameters(ring_dimension, LEVELS, 59, 60, digits, 128)
    return replace(parameters, insecure=not parameters.is_secure())


def measure_operations(
    ring_dimension: int, threads: int, rounds: int = ROUNDS
) -> list[Measurement]:
    """Times of the operations that hold every step, at some levels and digits."""
    found = []
    for digits in DIGITS:
        parameters = calibration_parameters(ring_dimension, digits)
        with _keys(parameters, threads) as secret, ThreadPoolExecutor(threads) as pool:
            for level in MEASURED_LEVELS:
                made = list(pool.map(lambda _, at=level: _tasks(secret, at), range(threads)))
                best = dict.fromkeys(made[0], math.inf)
                for _ in range(rounds):
                    for op, seconds in best.items():
                        tasks = [one[op] for one in made]
                        best[op] = min(seconds, time_together(pool, tasks, seconds))
                found += [Measurement(op, level, parameters, t) for op, t in best.items()]
    return found


def time_together(pool: ThreadPoolExecutor, tasks: Sequence[Task], known: float) -> float:
    """Processor seconds of a task while all run at the same time, one on each thread of the pool.

    `known` is about how long it takes, so that a short one is repeated; infinity: once.
    """
    repeats = max(1, math.ceil(SHORTEST_SECONDS / known))
    start = threading.Barrier(len(tasks))

    def run(task: Task) -> float:
        start.wait()
        started = time.thread_time()
        for _ in range(repeats):
            task()
        return (time.thread_time() - started) / repeats

    return sum(pool.map(run, tasks)) / len(tasks)


def measure_throughput(ring_dimension: int, threads: int, seconds: float) -> float:
    """Mixes of operations per second on a number of threads, the better of two attempts.

    How many OpenMP threads each operation has is up to OMP_NUM_THREADS.
    """
    parameters = calibration_parameters(ring_dimension, 1)
    with _keys(parameters, threads) as secret, ThreadPoolExecutor(threads) as pool:
        made = list(pool.map(lambda _: _tasks(secret, 0), range(threads)))

        def run(tasks: dict[str, Task]) -> float:
            started, count = time.perf_counter(), 0
            while (spent := time.perf_counter() - started) < seconds:
                for op, times in MIX.items():
                    for _ in range(times):
                        tasks[op]()
                count += 1
            return count / spent

        return max(sum(pool.map(run, made)) for _ in range(2))


def reference_rotation(ring_dimension: int = 1 << 16, repeats: int = 5) -> float:
    """Seconds of the reference rotation (best of `repeats`), by which machines are compared.

    One `EvalRotate` at N = 2^16 with `SetMultiplicativeDepth(27)`, 40-bit scale, 56-bit first
    modulus, 3 digits, at level 2, on one thread. Other rings are for tests.
    """
    o = load_openfhe()
    parameters = Parameters(ring_dimension, 27, 40, 56, 3, 128)
    p = o.CCParamsCKKSRNS()
    p.SetSecretKeyDist(o.SecretKeyDist.UNIFORM_TERNARY)
    level = "HEStd_128_classic" if parameters.is_secure() else "HEStd_NotSet"
    p.SetSecurityLevel(getattr(o.SecurityLevel, level))
    p.SetRingDim(ring_dimension)
    p.SetMultiplicativeDepth(parameters.levels)
    p.SetScalingModSize(parameters.prime_bits)
    p.SetFirstModSize(parameters.first_prime_bits)
    p.SetNumLargeDigits(parameters.digits)
    with wrapped("measuring the reference rotation"):
        context = o.GenCryptoContext(p)
        for feature in (o.PKE, o.KEYSWITCH, o.LEVELEDSHE):
            context.Enable(feature)
        keys = context.KeyGen()
        context.EvalRotateKeyGen(keys.secretKey, [1])
        slots = np.linspace(-1, 1, ring_dimension // 2)
        plaintext = context.MakeCKKSPackedPlaintext(slots, 1, 2)
        ciphertext = context.Encrypt(keys.publicKey, plaintext)
        best = math.inf
        allow_inner_threads(False)
        for _ in range(repeats):
            started = time.perf_counter()
            context.EvalRotate(ciphertext, 1)
            best = min(best, time.perf_counter() - started)
        allow_inner_threads(True)
    ServerContext(context, keys.secretKey.GetKeyTag(), parameters).release()
    return best


@contextmanager
def _keys(parameters: Parameters, threads: int) -> Iterator[SecretContext]:
    secret, server = generate_keys(parameters, KEYS, threads)
    try:
        yield secret
    finally:
        server.release()


def _tasks(secret: SecretContext, level: int) -> dict[str, Task]:
    """The measured operations on operands at a level that nothing else uses.

    They are what `runtime.backends.openfhe` does for the same names.
    """
    context, parameters = secret.context, secret.parameters
    vector = np.full(parameters.slots, 0.6 + 0.8j, np.complex128)

    def encrypted() -> Any:
        fresh = secret.encrypt(vector, parameters.prime_bits)
        return context.LevelReduce(fresh, None, level) if level else fresh

    def encoded() -> Any:
        return encode_vector(context, parameters, vector, parameters.prime_bits, level, 1)

    def extended() -> Any:
        return context.EvalFastRotationExt(x, 1, context.EvalFastRotationPrecompute(x), True)

    with wrapped("measuring operations"):
        x, y = encrypted(), encrypted()
        digits, plaintext = context.EvalFastRotationPrecompute(x), encoded()
        total, term = extended(), extended()
    return {
        "rotate": lambda: context.EvalRotate(x, 1),
        "hoist": lambda: context.EvalFastRotationPrecompute(x),
        "rotate_hoisted": lambda: context.EvalFastRotation(x, 1, digits),
        "rotate_extended": extended,
        "rotate_hoisted_extended": lambda: context.EvalFastRotationExt(x, 1, digits, True),
        "add_extended": lambda: context.EvalAddInPlaceNoCheck(total, term),
        "key_switch_down": lambda: context.KeySwitchDown(term),
        "square": lambda: context.EvalSquare(x),
        "mul_plain": lambda: context.EvalMult(x, encoded()),
        "add_plain": lambda: context.EvalAdd(x, encoded()),
        "mul_i": lambda: context.EvalMult(x, plaintext),
        "add": lambda: context.EvalAdd(x, y),
        "rescale": lambda: context.Rescale(x),
        "drop_level": lambda: context.LevelReduce(x, None, 1),
    }
