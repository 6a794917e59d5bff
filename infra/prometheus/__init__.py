"""Prometheus: configuration, rules, and a local server."""
