"""Small networks of every kind the compiler takes, for its tests, budgets and benchmarks.

    python -m models.zoo list
    python -m models.zoo export lola --out lola.onnx
    python -m models.zoo data lola --out lola.npz

`export` writes a network, `data` its calibration and test samples.
"""
