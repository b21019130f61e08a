"""The plan: one file that holds everything a client and a server need to run a network."""

from fhecompile.plan.plan import Plan

__all__ = ["Plan"]
