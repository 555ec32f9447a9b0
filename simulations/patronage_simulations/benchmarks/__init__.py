"""Benchmarks, each a command of its own that prints ratios against a floor measured in the same run."""
