"""The Feast repository: entities, views, online stores, archive, typed reads and writes."""

# Feast switches prometheus_client to files shared between processes unless its value class is chosen before Feast is
# imported. Our metrics are one process's own.
import prometheus_client.values  # noqa: F401
