"""Fakes for tests of the ranker: a small random ranker and behavior model on the random catalog, and a feature store."""

from collections.abc import Sequence
from pathlib import Path

import torch

from reaseq.aggregates import BUILT_IN, AggregateTable, PartialRow, kept_series
from reaseq.behavior.backbone import BackboneConfig
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.days import DAY_MS
from reaseq.model_artifacts import publish_model
from reaseq.ranker.batch import FEATURES_VERSION
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine, engine_files
from reaseq.ranker.item_statistics import fit
from reaseq.ranker.latent import LatentModels
from reaseq.ranker.model import Ranker, RankerConfig
from reaseq.records import EventDelta, Inferred, UserFeatures
from reaseq.representation.item_table import ItemTable
from reaseq.representation.trained_ids import TrainedIds
from tests.fakes.catalog import CATALOG, DIM, ITEMS, NOW_MS, VOCABULARY, request

WIDTH = 32
IDS = TrainedIds([f"i{number}" for number in range(ITEMS - 50)])
STATISTICS = fit([(f"u{number}", [f"i{number}", f"i{number + 1}", f"i{number + 2}"]) for number in range(60)])
USER = UserFeatures(
    user_id="u",
    event_time_ms=1,
    events_seen=1,
    history=request(9).history,
    inferred=Inferred(item_ids=("i5", "i6"), confidences=(0.4, 0.1)),
)


def ranker(seed: int = 0, **changes: int) -> Ranker:
    """A random ranker, claim rates included."""
    torch.manual_seed(seed)
    config = {"vector_dim": DIM, "claims": VOCABULARY.size, "items": len(IDS), "width": 16} | changes
    model = Ranker(RankerConfig(**config)).eval()  # type: ignore[arg-type]
    torch.nn.init.normal_(model.claim_rates, 0.1, 0.02).abs_() if config["claims"] > 1 else None
    return model


def aggregates() -> AggregateTable:
    """The aggregates after one event of each of the rows 1 to 99, half a day apart."""
    table, kept = AggregateTable(BUILT_IN), kept_series(BUILT_IN)
    for row in range(1, 100):
        part = PartialRow(f"row {row}", "0", None, kept)
        part.apply([EventDelta("0", row, row, 1, f"row {row}", "view", NOW_MS - row * DAY_MS // 2, None)])
        table.apply([row], [part.record()])
    return table


def engine(table: ItemTable = CATALOG, latents: LatentModels | None = None, seed: int = 0, **changes: int) -> Engine:
    """The random ranker on a table."""
    latents = latents or LatentModels(Path())
    return Engine(ranker(seed, **changes), IDS, f"v{seed}", table, aggregates(), latents, STATISTICS)


def publish_ranker(models: Path, seed: int = 0, **facts: object) -> str:
    """Publish the random ranker; returns its version."""
    required = {"space_id": "s", "vector_dim": DIM, "vocabulary": VOCABULARY.version, "features": FEATURES_VERSION, **facts}
    model = ranker(seed)
    files = engine_files(model, STATISTICS)
    return publish_model(models, RANKER, f"made-{seed}", model, model.config, IDS, required, files).version


def publish_behavior(models: Path, seed: int = 0) -> str:
    """Publish a random behavior model; returns its version."""
    torch.manual_seed(seed)
    config = BehaviorConfig(
        vector_dim=DIM, claims=VOCABULARY.size, items=len(IDS), backbone=BackboneConfig(width=WIDTH, feed=48)
    )
    facts = {"space_id": "s", "vocabulary": VOCABULARY.version, "trained_until_ms": 0}
    return publish_model(models, BEHAVIOR, f"made-{seed}", BehaviorModel(config), config, IDS, facts).version


class Store:
    """A fake feature store: a dictionary whose shards can be switched off. Counts its reads."""

    def __init__(self, *users: UserFeatures, shards: int = 1) -> None:
        self.users = {user.user_id: user for user in users}
        self.shards = shards
        self.off: set[int] = set()
        self.reads = 0

    def shard_of(self, entity_id: str) -> int:
        """The shard by the last digit of the id."""
        return int(entity_id[-1]) % self.shards if self.shards > 1 else 0

    def read_available_users(self, user_ids: Sequence[str]) -> tuple[dict[str, UserFeatures], set[int]]:
        """The known users whose shards are not switched off, and the shards that are."""
        self.reads += 1
        on = [user_id for user_id in user_ids if self.shard_of(user_id) not in self.off]
        return {user_id: self.users[user_id] for user_id in on if user_id in self.users}, {
            self.shard_of(user_id) for user_id in user_ids
        } & self.off
