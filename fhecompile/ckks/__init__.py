"""CKKS arithmetic without ciphertexts: layouts, diagonals, BSGS splits, parameters, noise, cost.

Depends on numpy only, so that a server that runs plans needs nothing of the compiler.
"""
