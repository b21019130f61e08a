"""The runtime: executes plans in clear, simulated, or encrypted with OpenFHE.

Needs neither ONNX nor the compiler; numpy and msgspec, and openfhe for encrypted runs.
"""

from __future__ import annotations

from runtime.session import InferenceSession, run

__all__ = ["InferenceSession", "run"]
