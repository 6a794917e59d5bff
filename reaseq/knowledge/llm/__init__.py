"""Calls to a language model: requests, the endpoint, retries, token budgets, and the ledger of answers."""
