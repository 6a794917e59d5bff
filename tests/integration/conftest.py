"""Services for integration tests."""

from collections.abc import Iterator

import pytest

from infra import local
from infra.scratch import settings_on_free_ports, start_empty
from reaseq.settings import Settings


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A real broker and a real Redis with empty topics and views, one pair per test module."""
    settings = settings_on_free_ports(tmp_path_factory.mktemp("services"))
    try:
        start_empty(settings)
        yield settings
    finally:
        local.stop_all(settings)
