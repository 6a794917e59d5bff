"""Settings of a system with a ranking service whose answers a test compares."""

from pathlib import Path

from infra import process
from infra.scratch import settings_on_free_ports
from reaseq.settings import Settings


def settings_with_patient_service(state_dir: Path) -> Settings:
    """Settings on free ports. The service waits for the store as long as a busy machine may need, so it degrades no ranking."""
    settings = settings_on_free_ports(state_dir)
    settings.service.port = process.free_port()
    settings.service.budget_ms, settings.service.store_timeout_ms = 10_000, 5_000
    return settings
