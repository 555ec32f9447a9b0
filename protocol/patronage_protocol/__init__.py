"""The rules of Patronage: terms, signed statements, rounds, valuation, payout, ledger, verification.

Nothing here opens a socket. Only `policy` imports torch, so that everything an auditor needs works on
the base install.
"""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("patronage")
