"""Resources for a catalog of a given size, extrapolated from measurements on a small one; the table in docs/sizing.md.

Measured figures come from benchmarks/results. No GPU was available, so figures that need one are assumed, and marked as such.
"""

import math
from dataclasses import dataclass
from typing import Any

GIB = 2**30
# `MEMORY USAGE` of the demo's average rows in Redis 7: representation and knowledge; history and inferred behaviors.
REDIS_ITEM_BYTES, REDIS_USER_BYTES = 1400 + 2664, 2664 + 1000
REDIS_HEADROOM = 1.5  # fragmentation, and the fork that rewrites the append-only file
REDIS_NODE_BYTES = 256 * GIB
TOKENS_PER_ITEM = 800 + 850  # uncached and generated, from the ledger of a run with the tiny model: five calls
STREAM_HEADROOM = 2.0  # over the highest sustained rate, to work off a backlog
RANKER_HEADROOM = 2.0
WORKER_GIB = 2.0  # without the item table

# Assumed: no GPU was available.
GPU_TOKENS_PER_S = 5_000  # a model of 4 billion parameters on one large GPU, all requests together
GPU_BYTES = 80 * GIB
GPU_PER_HOUR_USD, CORE_PER_HOUR_USD, GIB_PER_HOUR_USD = 3.0, 0.04, 0.005
HOURS_PER_MONTH = 730


@dataclass(frozen=True)
class ShopSize:
    """The size of a catalog and its daily peak load."""

    items: int
    users: int
    peak_events_per_s: int
    new_items_per_day: int
    peak_rankings_per_s: int


SHOPS = (
    ShopSize(10**5, 10**6, 300, 1_000, 50),
    ShopSize(10**7, 10**8, 20_000, 200_000, 2_000),
    ShopSize(10**9, 10**9, 500_000, 10_000_000, 50_000),
)


@dataclass(frozen=True)
class Needs:
    """The resources that a shop needs."""

    partitions: int
    workers: int
    worker_gib: float  # each worker holds the item table, for inference
    redis_gib: float
    redis_nodes: int
    table_gib: float
    ranker_cores: int
    reasoning_gpus: int
    usd_per_month: float

    @property
    def table_fits(self) -> bool:
        """Whether half a GPU holds the whole item table, which the ranking service requires."""
        return self.table_gib * GIB <= GPU_BYTES / 2


@dataclass(frozen=True)
class Measured:
    """The rate that one worker sustains, the time that one core takes to rank 500 candidates, and item-table bytes per item."""

    worker_events_per_s: float
    rank_s: float
    table_bytes_per_item: float


def estimate_needs(shop: ShopSize, measured: Measured) -> Needs:
    """Scale the measurements up to a shop."""
    workers = math.ceil(STREAM_HEADROOM * shop.peak_events_per_s / measured.worker_events_per_s)
    redis_bytes = (shop.items * REDIS_ITEM_BYTES + shop.users * REDIS_USER_BYTES) * REDIS_HEADROOM
    ranker_cores = math.ceil(RANKER_HEADROOM * shop.peak_rankings_per_s * measured.rank_s)
    gpus = math.ceil(shop.new_items_per_day * TOKENS_PER_ITEM / 86_400 / GPU_TOKENS_PER_S)
    cores_usd = (workers + ranker_cores) * CORE_PER_HOUR_USD
    table_gib = shop.items * measured.table_bytes_per_item / GIB
    worker_gib = WORKER_GIB + table_gib
    memory_usd = (redis_bytes / GIB + worker_gib * workers) * GIB_PER_HOUR_USD
    return Needs(
        partitions=max(4, 4 * math.ceil(2 * workers / 4)),  # room for twice as many workers
        workers=workers,
        worker_gib=worker_gib,
        redis_gib=redis_bytes / GIB,
        redis_nodes=math.ceil(redis_bytes / REDIS_NODE_BYTES),
        table_gib=table_gib,
        ranker_cores=ranker_cores,
        reasoning_gpus=gpus,
        usd_per_month=(cores_usd + memory_usd + gpus * GPU_PER_HOUR_USD) * HOURS_PER_MONTH,
    )


def read_measured(delivery: dict[str, Any], ranking: dict[str, Any]) -> Measured:
    """Take the measurements from the results of the benchmarks `delivery` and `ranking`."""
    table = max(ranking["item_table"], key=lambda row: int(row["items"]))
    return Measured(
        worker_events_per_s=delivery["highest_sustained_events_per_s"],
        rank_s=ranking["rank_p50_ms"] / 1000,
        table_bytes_per_item=table["tensors_mib"] * 2**20 / table["items"],
    )
