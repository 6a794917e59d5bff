"""Operator actions on a running stream: replay, backfill, rebuild, reconciliation, status, dead letters and erasure."""
