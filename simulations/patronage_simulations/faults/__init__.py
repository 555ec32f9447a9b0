"""Faults of the storage, injected one by one, and what the ledger and its witnesses make of them.

    python -m patronage_simulations.faults

runs every case and prints the table. It needs Linux and strace; without strace only the scenarios are run.
"""
