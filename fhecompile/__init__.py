"""fhecompile: trained networks (ONNX) to programs over CKKS ciphertexts.

`compile()` turns a model into a plan; `runtime.run()` executes one. Importing this package is
cheap: the compiler's libraries are loaded at the first call of `compile`.
"""

from __future__ import annotations

from fhecompile.compile import compile
from fhecompile.errors import FheCompileError, InternalError
from fhecompile.version import __version__

__all__ = ["FheCompileError", "InternalError", "__version__", "compile"]
