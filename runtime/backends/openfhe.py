"""The OpenFHE backend: ciphertexts, keys, and the only module that imports openfhe.

Scales are the plan's, not the library's. The context runs in FIXEDMANUAL mode with a nominal scale
2^q, q the size of a rescaling prime; a vector v at scale 2^e is encoded as v 2^(e - q) at the
nominal scale, which gives the integer polynomial of v at 2^e, and after every operation the
library's own book-keeping is reset to "degree 1, nominal scale", so that it never adjusts anything.

Evaluation keys live in process-wide maps by key tag; a `ServerContext` holds the context and the
tag, and never a secret key.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.parameters import Parameters
from fhecompile.ckks.slot_mask import mask_vector
from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.schema import KeysInfo
from runtime.backends.base import AheadTask, Backend, OperationNode, operation_nodes
from runtime.backends.encoder import ConstantEncoder, Vector, encode_vector
from runtime.backends.openmp import allow_inner_threads
from runtime.constants import ConstantStore
from runtime.plaintexts import PlaintextInfo, PlaintextStore, list_plaintexts
from runtime.trace import InnerTimes

Ciphertext = Any
Operands = Sequence[Ciphertext]


def load_openfhe() -> Any:
    """The openfhe module, or an error that says which Python and system it needs."""
    try:
        import openfhe
    except ImportError as error:
        text = str(error)
        if "GLIBCXX" in text or "GLIBC_" in text:
            reason = "the OpenFHE wheel needs a newer C++ library than this system has"
            hint = "use CPython 3.10, whose wheel runs on Debian 12 and Ubuntu 22.04"
        elif isinstance(error, ModuleNotFoundError) and error.name == "openfhe":
            reason = "OpenFHE is not installed"
            hint = "encrypted runs need CPython 3.10 or 3.12 and: pip install fhecompile[runtime]"
        else:
            reason = f"OpenFHE cannot be imported ({text.splitlines()[0]})"
            hint = (
                "its wheels hold one binary each: openfhe 1.6.1.0.22.4 for CPython 3.10, "
                "1.6.1.0.24.4 for CPython 3.12; --mode simulate runs everywhere"
            )
        raise FheCompileError(
            "openfhe-missing", reason, hint=hint, exit_code=EXIT_ENVIRONMENT
        ) from error
    return openfhe


@contextlib.contextmanager
def wrapped(doing: str, node: str = "") -> Iterator[None]:
    """Turns OpenFHE's bare RuntimeErrors into errors that say what was being done."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).split("\n")[0]
        text = text.split("]", 1)[-1].strip() if text.startswith("[") else text
        if "EvalKey for index" in text or "not found" in text.lower():
            raise FheCompileError(
                "evaluation-key-missing",
                f"an evaluation key is missing while {doing}",
                node=node,
                hint="generate the keys again for this very plan",
            ) from error
        raise FheCompileError(
            "openfhe-failed",
            f"OpenFHE failed while {doing}: {text}",
            node=node,
            hint="check that keys and ciphertexts were made for this very plan",
            exit_code=EXIT_ENVIRONMENT,
        ) from error


def make_context(parameters: Parameters, is_complex: bool = True) -> Any:
    """An OpenFHE context for the plan's parameters; OpenFHE checks the security itself."""
    o = load_openfhe()
    p = o.CCParamsCKKSRNS()
    p.SetSecretKeyDist(o.SecretKeyDist.UNIFORM_TERNARY)
    level = {128: "HEStd_128_classic", 192: "HEStd_192_classic", 256: "HEStd_256_classic"}
    name = "HEStd_NotSet" if parameters.insecure else level[parameters.security_bits]
    p.SetSecurityLevel(getattr(o.SecurityLevel, name))
    p.SetRingDim(parameters.ring_dimension)
    p.SetMultiplicativeDepth(parameters.levels)
    p.SetScalingModSize(parameters.prime_bits)
    p.SetFirstModSize(parameters.first_prime_bits)
    p.SetNumLargeDigits(parameters.digits)
    p.SetScalingTechnique(o.ScalingTechnique.FIXEDMANUAL)
    p.SetCKKSDataType(o.CKKSDataType.COMPLEX if is_complex else o.CKKSDataType.REAL)
    p.SetBatchSize(parameters.slots)
    with wrapped("setting up the parameters"):
        context = o.GenCryptoContext(p)
        for feature in (o.PKE, o.KEYSWITCH, o.LEVELEDSHE, o.ADVANCEDSHE):
            context.Enable(feature)
    return context


@dataclass(frozen=True, eq=False)
class SecretContext:
    """What only the client holds."""

    context: Any
    public_key: Any
    secret_key: Any
    parameters: Parameters

    def encrypt(self, vector: Vector, scale: float) -> Ciphertext:
        """A fresh ciphertext of a slot vector at level 0 and scale 2^scale."""
        with wrapped("encrypting"):
            plaintext = encode_vector(self.context, self.parameters, vector, scale, 0)
            return self.context.Encrypt(self.public_key, plaintext)

    def decrypt(self, ciphertext: Ciphertext, scale: float) -> NDArray[np.complex128]:
        """The slot vector of a ciphertext at scale 2^scale."""
        with wrapped("decrypting"):
            plaintext = self.context.Decrypt(ciphertext, self.secret_key)
            plaintext.SetLength(self.parameters.slots)
            values: NDArray[np.complex128] = np.array(
                plaintext.GetCKKSPackedValueArray(), np.complex128
            )
        values = values[: self.parameters.slots]
        values *= 2.0 ** (self.parameters.prime_bits - scale)
        return values


@dataclass(frozen=True, eq=False)
class ServerContext:
    """What a server holds: the context and the tag of the evaluation keys. Never a secret key."""

    context: Any
    key_tag: str
    parameters: Parameters

    def missing_keys(self, keys: KeysInfo) -> list[str]:
        """Names of the listed evaluation keys that this context does not have."""
        held: set[int] = set()
        with contextlib.suppress(RuntimeError):  # there is none at all
            held.update(self.context.GetExistingEvalAutomorphismKeyIndices(self.key_tag))
        wanted = automorphism_indices(self.parameters, keys)
        missing = [name for name, index in wanted.items() if index not in held]
        if keys.relinearisation and self.key_tag not in self.context.GetAllEvalMultKeys():
            missing.append("relinearisation")
        return missing

    def release(self) -> None:
        """Drops the evaluation keys of this tag from the process; others stay."""
        o = load_openfhe()
        automorphism = dict(self.context.GetAllEvalAutomorphismKeys())
        multiplication = dict(self.context.GetAllEvalMultKeys())
        self.context.ClearEvalAutomorphismKeys()
        o.ClearEvalMultKeys()
        for tag, keys in automorphism.items():
            if tag != self.key_tag:
                self.context.InsertEvalAutomorphismKey(keys, tag)
        for tag, vector in multiplication.items():
            if tag != self.key_tag:
                self.context.InsertEvalMultKey(vector, tag)


def generate_keys(
    parameters: Parameters, keys: KeysInfo, threads: int = 1
) -> tuple[SecretContext, ServerContext]:
    """A fresh key pair and the evaluation keys a plan lists.

    Evaluation keys are independent of each other and are made on `threads` threads.
    """
    context = make_context(parameters)
    with wrapped("generating keys"):
        pair = context.KeyGen()
        if keys.relinearisation:
            context.EvalMultKeyGen(pair.secretKey)
        indices = list(automorphism_indices(parameters, keys).values())
        tag = pair.secretKey.GetKeyTag()
        with ThreadPoolExecutor(
            threads, initializer=allow_inner_threads, initargs=(False,)
        ) as pool:
            # One key at a time, so that Ctrl-C need not wait for all of them.
            for made in pool.map(
                lambda index: context.EvalAutomorphismKeyGen(pair.secretKey, [index]), indices
            ):
                context.InsertEvalAutomorphismKey(made, tag)
    secret = SecretContext(context, pair.publicKey, pair.secretKey, parameters)
    return secret, ServerContext(context, tag, parameters)


def automorphism_indices(parameters: Parameters, keys: KeysInfo) -> dict[str, int]:
    """Galois element of every listed key: 5^r mod 2N rotates by r, 2N - 1 conjugates."""
    order = 2 * parameters.ring_dimension
    indices = {f"rotation by {r}": pow(5, r, order) for r in keys.rotations}
    if keys.conjugation:
        indices["conjugation"] = order - 1
    return indices


class OpenfheBackend(Backend):
    """See the module docstring."""

    name: ClassVar[str] = "openfhe"

    def __init__(
        self,
        plan: Plan,
        constants: ConstantStore,
        server: ServerContext,
        ahead_bytes: int = 0,
        cache_bytes: int = 0,
    ) -> None:
        super().__init__(plan, constants)
        self.context = server.context
        self.parameters = plan.parameters
        self.nodes = operation_nodes(plan)
        self.plaintexts = PlaintextStore(
            list_plaintexts(plan),
            ConstantEncoder(plan, self.nodes, constants, self.context),
            ahead_bytes,
            cache_bytes,
        )
        self.nominal = 2.0**self.parameters.prime_bits
        self.cyclotomic = 2 * self.parameters.ring_dimension
        self.automorphism_keys: Any = None
        if plan.program.keys.conjugation:
            with wrapped("looking up the evaluation keys"):
                self.automorphism_keys = self.context.GetEvalAutomorphismKeyMap(server.key_tag)
        self._units: dict[tuple[Hashable, int], Any] = {}
        self._lock = threading.Lock()

    def begin(self, images: int) -> None:
        self.plaintexts.begin(images)  # and through it the constants, without those cached

    def end(self) -> InnerTimes:
        super().end()
        return self.plaintexts.end()

    def spread(self, wide: bool) -> None:
        allow_inner_threads(wide)

    def claim_ahead(self) -> AheadTask | None:
        info = self.plaintexts.claim()
        if info is None:
            return None
        return AheadTask(self.nodes[info.operation], partial(self._encode_ahead, info))

    def execute(self, node: OperationNode, operands: Operands) -> Ciphertext:
        with wrapped(f"executing {node.op}", self._place(node)):
            return super().execute(node, operands)

    def rotate(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.EvalRotate(operands[0], node.attributes["offset"]))

    def conjugate(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(
            self.context.EvalAutomorphism(operands[0], self.cyclotomic - 1, self.automorphism_keys)
        )

    def hoist(self, node: OperationNode, operands: Operands) -> Any:
        return self.context.EvalFastRotationPrecompute(operands[0])

    def rotate_hoisted(self, node: OperationNode, operands: Operands) -> Ciphertext:
        x, digits = operands
        return self._labelled(self.context.EvalFastRotation(x, node.attributes["offset"], digits))

    def rotate_sum(self, node: OperationNode, operands: Operands) -> Ciphertext:
        total = None
        for x, offset in zip(operands, node.attributes["offsets"], strict=True):
            turned = self.context.EvalRotate(x, offset) if offset else x
            total = turned if total is None else self.context.EvalAdd(total, turned)
        return self._labelled(total)

    def rotate_extended(self, node: OperationNode, operands: Operands) -> Ciphertext:
        x = operands[0]
        digits = self.context.EvalFastRotationPrecompute(x)
        return self._labelled(
            self.context.EvalFastRotationExt(x, node.attributes["offset"], digits, True)
        )

    def add_extended(self, node: OperationNode, operands: Operands) -> Ciphertext:
        # The sum replaces its first operand, which nothing else reads (share_rotations).
        self.context.EvalAddInPlaceNoCheck(operands[0], operands[1])
        return operands[0]

    def key_switch_down(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.KeySwitchDown(operands[0]))

    def dot_plain(self, node: OperationNode, operands: Operands) -> Ciphertext:
        total = None  # sums are exact, so the order of the terms does not matter
        for term, plaintext in self.plaintexts.use(node.number):
            product = self.context.EvalMult(operands[term], plaintext)
            if total is None:
                total = product
            else:
                self.context.EvalAddInPlace(total, product)
        return self._labelled(total)

    def mul_plain(self, node: OperationNode, operands: Operands) -> Ciphertext:
        ((_, plaintext),) = self.plaintexts.use(node.number)
        return self._labelled(self.context.EvalMult(operands[0], plaintext))

    def add_plain(self, node: OperationNode, operands: Operands) -> Ciphertext:
        ((_, plaintext),) = self.plaintexts.use(node.number)
        return self._labelled(self.context.EvalAdd(operands[0], plaintext))

    def add(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.EvalAdd(operands[0], operands[1]))

    def sub(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.EvalSub(operands[0], operands[1]))

    def negate(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.EvalNegate(operands[0]))

    def mul(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.EvalMult(operands[0], operands[1]))

    def square(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.EvalSquare(operands[0]))

    def mul_i(self, node: OperationNode, operands: Operands) -> Ciphertext:
        # i is the monomial X^(N/2): at scale 1 the product is exact and costs no level.
        unit = self._unit(1j, np.full(self.parameters.slots, 1j), node.type.level)
        return self._labelled(self.context.EvalMult(operands[0], unit))

    def keep_even(self, node: OperationNode, operands: Operands) -> Ciphertext:
        order = node.attributes["order"]
        mask = mask_vector(order, self.parameters.slots)
        return self._labelled(
            self.context.EvalMult(operands[0], self._unit(("even", order), mask, node.type.level))
        )

    def rescale(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(self.context.Rescale(operands[0]))

    def drop_level(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return self._labelled(
            self.context.LevelReduce(operands[0], None, node.attributes["levels"])
        )

    def relabel(self, node: OperationNode, operands: Operands) -> Ciphertext:
        return operands[0]

    def scale_up(self, node: OperationNode, operands: Operands) -> Ciphertext:
        factor = 2.0 ** node.attributes["bits"]
        unit = self._unit(factor, np.full(self.parameters.slots, factor), node.type.level)
        return self._labelled(self.context.EvalMult(operands[0], unit))

    def _encode_ahead(self, info: PlaintextInfo) -> None:
        with wrapped("encoding constants", self._place(self.nodes[info.operation])):
            self.plaintexts.make(info)

    def _place(self, node: OperationNode) -> str:
        layer = self.plan.program.layers[node.layer]
        return layer.source or layer.name

    def _unit(self, name: Hashable, vector: Vector, level: int) -> Any:
        """The plaintext of a vector that is an integer polynomial at scale 1; one per level."""
        with self._lock:
            if (name, level) not in self._units:
                plaintext = encode_vector(self.context, self.parameters, vector, 0.0, level)
                self._units[name, level] = plaintext
            return self._units[name, level]

    def _labelled(self, ciphertext: Ciphertext) -> Ciphertext:
        ciphertext.SetNoiseScaleDeg(1)
        ciphertext.SetScalingFactor(self.nominal)
        return ciphertext
