"""Runs the Helm chart for real, on a Kubernetes of our own: `python -m infra.kubernetes`."""
