"""Grafana's dashboards and how it finds them."""
