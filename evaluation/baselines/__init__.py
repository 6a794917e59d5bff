"""Baselines that every claim of quality is compared with."""
