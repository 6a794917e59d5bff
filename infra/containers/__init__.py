"""Runs docker-compose.yml for real, with an engine and base images where there are none, and checks it.

Uses nothing but the standard library, so it runs before anything is installed: `python3 -m infra.containers`.
"""
