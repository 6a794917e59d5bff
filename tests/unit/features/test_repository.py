"""The repository: what it makes of a store that is emptied while it reads."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from feast import FeatureView
from feast.repo_config import RepoConfig

from features.repository import FeatureRepository
from features.row_format import RowVersion
from features.sqlite_store import PackedSqliteOnlineStore
from reaseq.errors import StoreUnavailable
from reaseq.records import History, UserFeatures
from reaseq.settings import Settings


class EmptiedStore(PackedSqliteOnlineStore):
    """A fake of a complete store that is emptied right before it is read."""

    complete = True

    def is_complete(self, config: RepoConfig) -> bool:
        return self.complete

    def get_all(self, config: RepoConfig, requests: Sequence[tuple[FeatureView, Sequence[bytes]]]) -> list[list[bytes | None]]:
        self.complete = False
        return [[None] * len(keys) for _, keys in requests]

    def read_versions(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[RowVersion | None]:
        self.complete = False
        return [None] * len(keys)


def test_row_of_an_emptied_store_is_not_mistaken_for_a_new_entity(tmp_path: Path) -> None:
    repository = FeatureRepository(Settings(state_dir=tmp_path), require_complete=True)
    user = UserFeatures(user_id="u", event_time_ms=1, events_seen=1, history=History())

    for read in (lambda: repository.read_users(["u"]), lambda: repository.drop_stale([user])):
        repository.online = EmptiedStore()
        with pytest.raises(StoreUnavailable, match="rebuild"):
            read()
