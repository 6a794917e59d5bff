"""Operator actions on a running stream: replay, backfill, rebuild, reconciliation, status and dead letters."""
