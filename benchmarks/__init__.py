"""Benchmarks: each measures both sides of a ratio in one run and writes `benchmarks/results/NAME.json`. Never a timed test."""

import features  # noqa: F401  before any benchmark imports Feast itself: see features/__init__.py
