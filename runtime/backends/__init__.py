"""Backends: the meaning of each operation of `fhecompile.ckks.operations` on concrete values."""
