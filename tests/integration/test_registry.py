"""Feast's registry file under concurrent appliers and readers, as real processes."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from features.definitions import VIEWS
from features.repository import FeatureRepository
from reaseq.errors import InfrastructureError
from reaseq.settings import Settings

pytestmark = pytest.mark.integration

APPLIES, PROCESSES = 12, 2


def _apply(state: Path, ended: Path) -> None:
    for _ in range(APPLIES):
        FeatureRepository(Settings(state_dir=state)).apply()


def _read(state: Path, ended: Path) -> None:
    """Every registry that a process can see is empty, as before the first `apply`, or holds every view."""
    complete = False
    while not ended.exists():
        found = {view.name for view in FeatureRepository(Settings(state_dir=state)).feast.list_feature_views()}
        assert found == {view.name for view in VIEWS} or not (found or complete), found
        complete = bool(found)
    assert complete


def _run(target: Callable[[Path, Path], None], state: Path, ended: Path) -> None:
    target(state, ended)
    os._exit(0)


def test_readers_of_the_registry_see_all_of_it_while_several_processes_apply(tmp_path: Path) -> None:
    context, ended = multiprocessing.get_context("fork"), tmp_path / "ended"
    appliers, readers = (
        [context.Process(target=_run, args=(target, tmp_path / "state", ended)) for _ in range(PROCESSES)]
        for target in (_apply, _read)
    )
    for process in (*readers, *appliers):
        process.start()
    for applier in appliers:
        applier.join(timeout=300)
    ended.touch()
    for reader in readers:
        reader.join(timeout=300)

    assert [process.exitcode for process in (*appliers, *readers)] == [0] * 2 * PROCESSES
    assert len(FeatureRepository(Settings(state_dir=tmp_path / "state")).feast.list_feature_views()) == len(VIEWS)
    assert not list((tmp_path / "state").glob(".registry*")), "files written aside are left over"


def test_reader_does_not_write_the_registry(tmp_path: Path) -> None:
    assert not FeatureRepository(Settings(state_dir=tmp_path)).feast.list_feature_views()

    assert not (tmp_path / "registry.db").exists()


def test_damaged_registry_is_named_with_its_remedy(tmp_path: Path) -> None:
    repository = FeatureRepository(Settings(state_dir=tmp_path))
    repository.apply()
    file = tmp_path / "registry.db"
    file.write_bytes(file.read_bytes()[:-7])

    with pytest.raises(InfrastructureError, match="reaseq setup"):
        FeatureRepository(Settings(state_dir=tmp_path)).apply()
    file.unlink()
    repository.apply()
