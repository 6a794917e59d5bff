"""Asking a language model: one call, its endpoint, its patience, its price, and the ledger that keeps every answer."""
