"""Baselines that every claim of quality stands beside."""
