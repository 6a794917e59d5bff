"""Benchmarks: each measures both sides of a ratio in one run and writes `benchmarks/results/NAME.json`. Never a timed test."""
