"""An empty system on free local ports, for tests and benchmarks."""

from pathlib import Path

from features.repository import FeatureRepository
from infra import local, process
from reaseq.settings import Settings
from streams.runtime.kafka.admin import create_topics


def settings_on_free_ports(state_dir: Path, brokers: int = 1) -> Settings:
    """Production-profile settings with brokers and Redis on free local ports."""
    settings = Settings(state_dir=state_dir)
    settings.store.profile = "production"
    settings.kafka.bootstrap_servers = ",".join(f"127.0.0.1:{process.free_port()}" for _ in range(brokers))
    settings.kafka.replication_factor, settings.kafka.min_insync_replicas = brokers, (brokers + 1) // 2
    settings.store.redis_url = type(settings.store.redis_url)(f"redis://127.0.0.1:{process.free_port()}/0")
    return settings


def start_empty(settings: Settings) -> FeatureRepository:
    """Start brokers and Redis with empty topics and views. `local.stop_all` stops them."""
    local.start_services(settings)
    create_topics(settings.kafka)
    repository = FeatureRepository(settings)
    repository.apply()
    return repository
