"""Prometheus: its configuration, our rules, and a server of one's own."""
