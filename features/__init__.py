"""The Feast repository: entities, views, online stores, archive, typed reads and writes."""

# Feast switches prometheus_client to files shared between processes unless its value class is chosen before Feast is
# imported. Our metrics are one process's own.
import prometheus_client.values  # noqa: F401

# Feast has typeguard compile its classes anew in every process that imports it: a third of the time in which a command or a
# worker starts, for checks of what mypy has checked here.
import typeguard

typeguard.typechecked = lambda target: target  # type: ignore[assignment]
