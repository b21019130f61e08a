"""Small networks of every kind the compiler takes, for its tests, budgets and benchmarks.

    python -m models.zoo list
    python -m models.zoo export lola --out lola.onnx
    python -m models.zoo data lola --out lola.npz
    python -m models.zoo train silu_cnn --out models/zoo

`export` writes a network, `data` its calibration and test samples, `train` makes shipped networks
anew: torch's in an environment with torch, scikit-learn's in one with skl2onnx.
"""
