"""What operators do to a running stream: replay, backfill, rebuild, reconcile, status and dead letters."""
