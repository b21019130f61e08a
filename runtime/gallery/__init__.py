"""Encrypted galleries: templates stored by a server that cannot read them, and compared by it."""
