"""Services that several integration tests start."""

from collections.abc import Iterator

import pytest

from features.repository import FeatureRepository
from infra import local, process
from reaseq.settings import Settings
from streams.kafka import create_topics


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A real broker with our topics and a real Redis that knows our views, both empty, for one module of tests."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("services"))
    settings.store.profile = "production"
    settings.kafka.bootstrap_servers = f"127.0.0.1:{process.free_port()}"
    settings.store.redis_url = type(settings.store.redis_url)(f"redis://127.0.0.1:{process.free_port()}/0")
    try:
        local.start_services(settings)
        create_topics(settings.kafka)
        FeatureRepository(settings).apply()
        yield settings
    finally:
        local.stop_all(settings)
