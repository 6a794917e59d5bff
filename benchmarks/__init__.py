"""Benchmarks: each measures both sides of a ratio in one run and writes `benchmarks/results/NAME.json`. They are not tests."""

import features  # noqa: F401  before any benchmark imports Feast itself: see features/__init__.py
