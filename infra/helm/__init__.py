"""The Helm chart and the schemas that validate it."""
