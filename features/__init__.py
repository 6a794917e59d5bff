"""The Feast repository: entities, views, online stores, archive, typed reads and writes."""

from features import _feast_compat  # noqa: F401  before anything imports Feast
