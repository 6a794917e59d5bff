"""Offline evaluation: data sets, candidate sets, metrics, baselines, experiments and reports."""
