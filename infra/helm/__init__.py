"""The Helm chart, and what it is held against."""
