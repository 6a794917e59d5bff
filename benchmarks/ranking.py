"""DegradingRanker 500 candidates with their features, beside what a user would set up with Feast alone, and beside the bare parts.

All sides in one run, on one real Redis, the catalog of Online Retail, users with histories of several lengths, and one ranker
of the default size (its weights are random: they cost the same). Sides, each called by 1, 8 and 32 callers at once:

- `rank`: the ranking itself as the service calls it: read of the user, features, micro-batch, forward pass, steps, budget.
- `feast_per_candidate`: Feast's own Redis store, one feature a column; `get_online_features` for the user, the 500 candidates
  and the items of the history, then the same model fed candidate by candidate. It is spared the latent scores.
- `forward`: the bare forward pass on tensors that are there already, one at a time on a thread of its own.
- `raw_read`: the same bytes of the user out of Redis.

Sides take turns; a figure is over all of a side's calls. Whoever calls waits for the answer before the next call.
"""

import gc
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import redis
import torch
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.types.Value_pb2 import DoubleList, Int64List, StringList, Value
from feast.repo_config import RepoConfig
from feast.types import Array, Float64, Int64, String
from msgspec.structs import replace as changed
from rich.console import Console

import features.definitions as views
from demo import ANSWERS, ORDER_LINES, VOCABULARY
from evaluation.datasets.interaction_log import InteractionLog
from evaluation.experiments import retail_experiment
from features.packed_store import KEY_VERSION, entity_key
from features.repository import FeatureRepository
from infra import process
from infra.redis import start_redis
from reaseq import float16
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.days import DAY_MS
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.model_artifacts import publish_model
from reaseq.ranker.batch import build_batch
from reaseq.ranker.engine import Engine, ScoringQuery
from reaseq.ranker.latent import SCORES, LatentModels
from reaseq.ranker.model import Embedded, Ranker, RankerBatch, RankerConfig
from reaseq.ranker.popularity import Popularity
from reaseq.records import History, Inferred, ItemFeatures, UserFeatures
from reaseq.representation.contents import Contents
from reaseq.representation.encoder import Encoder
from reaseq.representation.item_table import ItemTable, Snapshot, build_snapshot
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import Settings
from serving.degradation import DegradingRanker, RankingTask
from serving.micro_batching import MicroBatcher
from serving.user_cache import UserCache

CANDIDATES, USERS = 500, 64
CALLERS, HISTORIES = (1, 8, 32), (50, 200, 1000)
CALLS, FEAST_CALLS, TURNS = 300, 30, 3  # of a side at each point; in so many turns
LONG = (1000, 10_000)
SEARCHED = 48
UPDATES, UPDATED = 40, 256
SIZES = (10_000, 100_000)


@dataclass(frozen=True)
class RankingBench:
    """One user population with histories of one length, and every side of the comparison on it."""

    settings: Settings
    table: ItemTable
    engine: Engine
    alone: Engine  # the same model for Feast alone, which holds no item table
    users: list[UserFeatures]
    candidates: list[str]
    now_ms: int
    feast: FeatureStore

    def sides(self) -> dict[str, Callable[[int], object]]:
        """Each side as a call for the user of a number."""
        settings = self.settings.model_copy(deep=True)
        settings.store.redis_timeout_s = 1.0
        repository = FeatureRepository(settings)
        ranking = DegradingRanker(self.engine, UserCache(repository, USERS, 1.0))
        ranking.warm_up(CANDIDATES)
        batcher = MicroBatcher(ranking.rank, 8 * CANDIDATES, 256)
        snapshot = self.table.snapshot
        rows = snapshot.rows(self.candidates)
        batches = [self.engine.batch([ScoringQuery(user, rows, self.now_ms)], snapshot)[0] for user in self.users]
        one_at_a_time = ThreadPoolExecutor(max_workers=1)  # a queue: whoever comes first is served first
        client = redis.Redis.from_url(settings.store.redis_url.get_secret_value())
        prefix = [f"{repository.config.project}:{view.name}:".encode() for view in (views.user_history, views.user_inferred)]
        keys = [[of + _key(repository, user.user_id) for of in prefix] for user in self.users]

        def rank(number: int) -> object:
            user = self.users[number % USERS]
            now_s = time.monotonic()
            answer = batcher.submit(RankingTask(user.user_id, self.candidates, self.now_ms, now_s + 60)).result()
            assert answer.fallback_level == "fresh" and not answer.reasons, answer
            return answer

        def forward(number: int) -> object:
            return self.engine.score_batch(batches[number % USERS], snapshot)

        return {
            "rank": rank,
            "forward": lambda number: one_at_a_time.submit(forward, number).result(),
            "raw_read": lambda number: client.mget(keys[number % USERS]),
            "feast_per_candidate": lambda number: self._feast_per_candidate(self.users[number % USERS].user_id),
        }

    def _feast_per_candidate(self, user_id: str) -> torch.Tensor:
        told = self.feast.get_online_features(
            features=[f"user:{name}" for name in ("item_ids", "types", "times_ms", "inferred", "confidences")],
            entity_rows=[{"user_id": user_id}],
        ).to_dict()
        history = History(
            item_ids=tuple(told["item_ids"][0]), types=tuple(told["types"][0]), times_ms=tuple(told["times_ms"][0])
        )
        inferred = Inferred(item_ids=tuple(told["inferred"][0]), confidences=tuple(told["confidences"][0]))
        item_ids = list(dict.fromkeys([*self.candidates, *history.item_ids, *inferred.item_ids]))
        read = self.feast.get_online_features(
            features=[f"item:{name}" for name in ("vector", "claims", "sure", "price", "listed_ms", "counts")],
            entity_rows=[{"item_id": item_id} for item_id in item_ids],
        ).to_dict()
        table = _table_of(item_ids, read)
        places = table.rows(self.candidates)
        counts = np.array(read["counts"][:CANDIDATES], np.float32)[:, None]
        one = build_batch(
            [history],
            [inferred],
            places[:1].unsqueeze(0),
            counts[:1],
            [self.now_ms],
            torch.zeros(1, 1, SCORES),
            table,
            self.engine._model.config,
        )
        each = _repeated(one, places, counts)
        return self.alone.score_batch(each, table)


def run() -> dict[str, Any]:
    """Every side at every number of callers and length of history; first the point that the goals speak of."""
    console = Console(stderr=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="reaseq-bench-") as folder:
        settings = Settings(state_dir=Path(folder))
        settings.store.profile = "production"
        port = process.free_port()
        settings.store.redis_url = type(settings.store.redis_url)(f"redis://127.0.0.1:{port}/0")
        start_redis(settings.run_dir, settings.state_dir / "redis", port)
        try:
            with console.status("reading and encoding Online Retail"):
                log = retail_experiment(ORDER_LINES, ANSWERS, Encoder(Settings().encoder), Path("var/evaluation")).log
            grid = []
            for history in HISTORIES:
                with console.status(f"rebuilding Redis: histories of {history}"):
                    bench = _bench(settings, log, history, port)
                sides = bench.sides()
                gc.collect()
                gc.freeze()  # as the service does
                for callers in CALLERS:
                    grid.append({"history": history, "callers": callers} | _measure(sides, callers))
                    console.print(grid[-1])
            first = grid[0]
            return {
                **{name: value for name, value in first.items() if name not in ("history", "callers")},
                "by_history_and_callers": grid,
                "long_histories": [_long(log, history, search) for history in LONG for search in (0, SEARCHED)],
                "item_table": [_table_figures(size) for size in SIZES],
                "candidates": CANDIDATES,
                "items": len(log.items),
                "threads": 1,
            }
        finally:
            process.stop(settings.run_dir, "redis")


def _measure(sides: dict[str, Callable[[int], object]], callers: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        _called(call, 1, 1)
    for turn in range(TURNS):
        for name, call in sides.items():
            if not name.startswith("feast"):
                times[name] += _called(call, callers, max(CALLS // TURNS, callers))
            elif turn == TURNS // 2:  # its calls take seconds: one turn, in the midst of the others
                times[name] += _called(call, callers, max(FEAST_CALLS, callers))
    found: dict[str, Any] = {}
    for name, of in times.items():
        for percent in (50, 99):
            found[f"{name}_p{percent}_ms"] = round(float(np.percentile(of, percent)) * 1000, 3)
    for percent in (50, 99):
        rank, parts = found[f"rank_p{percent}_ms"], found[f"forward_p{percent}_ms"] + found[f"raw_read_p{percent}_ms"]
        found[f"feast_over_rank_p{percent}"] = round(found[f"feast_per_candidate_p{percent}_ms"] / rank, 1)
        found[f"rank_over_forward_and_read_p{percent}"] = round(rank / parts, 2)
    return found


def _called(call: Callable[[int], object], callers: int, calls: int) -> list[float]:
    """Seconds of each of so many calls, shared by the callers."""
    times: list[float] = []

    def caller(first: int) -> None:
        for number in range(first, calls, callers):
            started = time.perf_counter()
            call(number)
            times.append(time.perf_counter() - started)

    threads = [threading.Thread(target=caller, args=(first,)) for first in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def _bench(settings: Settings, log: InteractionLog, history: int, port: int) -> RankingBench:
    generator = np.random.default_rng(0)
    vocabulary = load_vocabulary(VOCABULARY)
    now_ms = log.baskets[-1].time_ms + DAY_MS
    ids = TrainedIds([item.item_id for item in log.items])
    torch.manual_seed(0)
    config = BehaviorConfig(claims=vocabulary.size, items=len(ids))
    facts = {"space_id": "bench"}
    version = publish_model(settings.models_dir, BEHAVIOR, "bench", BehaviorModel(config), config, ids, facts).version
    latents = LatentModels(settings.models_dir)
    latents.load(version)
    table = ItemTable(vocabulary, "bench", log.text.shape[1])
    records = [_record(log, place) for place in range(len(log.items))]
    table.apply(records)
    popularity = Popularity()
    events = [(basket.time_ms, item_id) for basket in log.baskets for item_id in basket.item_ids]
    popularity.observe(table.snapshot.rows([item_id for _, item_id in events]).numpy(), [time_ms for time_ms, _ in events])
    model = Ranker(RankerConfig(claims=vocabulary.size, items=len(ids), history=history, scores=SCORES))
    item_ids, width = [item.item_id for item in log.items], config.backbone.width
    users = [build_user(item_ids, number, history, now_ms, version, width, generator) for number in range(USERS)]
    repository = FeatureRepository(settings)
    repository.apply()
    repository.write(users)
    candidates = [log.items[place].item_id for place in generator.choice(len(log.items), CANDIDATES, replace=False)]
    engine, alone = (Engine(model, ids, name, table, popularity, latents) for name in ("bench", "alone"))
    return RankingBench(
        settings, table, engine, alone, users, candidates, now_ms, _feast(settings, log, users, popularity, table, port)
    )


def _record(log: InteractionLog, place: int) -> ItemFeatures:
    item = log.items[place]
    return ItemFeatures(
        item_id=item.item_id,
        event_time_ms=item.event_time_ms,
        listed_ms=item.event_time_ms,
        status="reasoned",
        title=item.title,
        price=item.price,
        space_id="bench",
        vector=float16.pack(log.table.contents.vectors[place + 1].numpy()),
        knowledge=log.answers[place],
    )


def build_user(
    item_ids: Sequence[str],
    number: int,
    history: int,
    now_ms: int,
    version: str,
    width: int,
    generator: np.random.Generator,
) -> UserFeatures:
    """A random user with so long a history, of the 200 days before `now_ms`, and a latent state of that width and model."""
    places = generator.choice(len(item_ids), history)
    times = tuple(now_ms - DAY_MS * 200 * (history - place) // history for place in range(history))
    guessed = generator.choice(len(item_ids), 16, replace=False)
    return UserFeatures(
        user_id=f"user-{number}",
        event_time_ms=times[-1],
        events_seen=history,
        history=History(
            item_ids=tuple(item_ids[place] for place in places),
            types=(4,) * history,
            times_ms=times,
            event_keys=tuple(range(history)),
        ),
        inferred=Inferred(
            item_ids=tuple(item_ids[place] for place in guessed),
            confidences=tuple(np.linspace(0.1, 0.01, 16).astype(np.float16).tolist()),
            model=version,
            as_of_ms=times[-1],
            events_seen=history,
            latent=float16.pack(generator.normal(size=width)),
        ),
    )


# ---- Feast alone


def _feast(
    settings: Settings, log: InteractionLog, users: Sequence[UserFeatures], popularity: Popularity, table: ItemTable, port: int
) -> FeatureStore:
    folder = settings.state_dir / "feast"
    folder.mkdir(exist_ok=True)
    store = FeatureStore(
        config=RepoConfig(
            project="alone",
            provider="local",
            registry={"path": str(folder / "registry.db"), "cache_mode": "thread", "cache_ttl_seconds": 3600},
            online_store={"type": "redis", "connection_string": f"127.0.0.1:{port},db=1"},
            offline_store={"type": "duckdb"},
            entity_key_serialization_version=KEY_VERSION,
            repo_path=folder,
        )
    )
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    source = FileSource(path=str(folder / "none.parquet"), timestamp_field="event_timestamp")
    item_view = FeatureView(
        name="item",
        entities=[item],
        ttl=timedelta(0),
        source=source,
        schema=[
            Field(name="vector", dtype=Array(Float64)),
            Field(name="claims", dtype=Array(Int64)),
            Field(name="sure", dtype=Array(Float64)),
            Field(name="price", dtype=Float64),
            Field(name="listed_ms", dtype=Int64),
            Field(name="counts", dtype=Array(Float64)),
        ],
    )
    user_view = FeatureView(
        name="user",
        entities=[user],
        ttl=timedelta(0),
        source=source,
        schema=[
            Field(name="item_ids", dtype=Array(String)),
            Field(name="types", dtype=Array(Int64)),
            Field(name="times_ms", dtype=Array(Int64)),
            Field(name="inferred", dtype=Array(String)),
            Field(name="confidences", dtype=Array(Float64)),
        ],
    )
    store.apply([item, user, item_view, user_view])
    now = datetime.now(UTC)
    snapshot = table.snapshot
    counts = popularity.counts(np.arange(1, len(log.items) + 1), log.baskets[-1].time_ms)
    items = [
        (
            entity_key("item_id", of.item_id),
            {
                "vector": _doubles(snapshot.contents.vectors[place + 1].tolist()),
                "claims": Value(int64_list_val=Int64List(val=snapshot.contents.claims[place + 1].tolist())),
                "sure": _doubles(snapshot.contents.confidences[place + 1].tolist()),
                "price": Value(double_val=of.price or 0.0),
                "listed_ms": Value(int64_val=of.event_time_ms),
                "counts": _doubles(counts[place].tolist()),
            },
            now,
            now,
        )
        for place, of in enumerate(log.items)
    ]
    people = [
        (
            entity_key("user_id", of.user_id),
            {
                "item_ids": Value(string_list_val=StringList(val=of.history.item_ids)),
                "types": Value(int64_list_val=Int64List(val=of.history.types)),
                "times_ms": Value(int64_list_val=Int64List(val=of.history.times_ms)),
                "inferred": Value(string_list_val=StringList(val=of.inferred.item_ids)),
                "confidences": _doubles(of.inferred.confidences),
            },
            now,
            now,
        )
        for of in users
    ]
    provider = store._get_provider()
    for view, rows in ((item_view, items), (user_view, people)):
        for start in range(0, len(rows), 500):
            provider.online_write_batch(store.config, view, rows[start : start + 500], None)
    return store


def _doubles(values: Sequence[float]) -> Value:
    return Value(double_list_val=DoubleList(val=values))


def _table_of(item_ids: list[str], read: dict[str, list[Any]]) -> Snapshot:
    """What Feast returned as a table of those items alone."""
    vectors = torch.tensor(read["vector"], dtype=torch.float32)
    claims = torch.tensor(read["claims"], dtype=torch.long)
    contents = Contents(vectors, claims, torch.tensor(read["sure"], dtype=torch.float32))
    padded = Contents(*(torch.cat([torch.zeros_like(of[:1]), of]) for of in (contents.vectors, claims, contents.confidences)))
    prices = torch.tensor([0.0, *read["price"]])
    listed = torch.tensor([0, *read["listed_ms"]])
    return build_snapshot(["", *item_ids], padded, prices, listed, torch.ones(len(item_ids) + 1, dtype=torch.bool))


def _repeated(one: RankerBatch, places: torch.Tensor, counts: np.ndarray) -> RankerBatch:
    """A batch of one candidate for each of them, all of one user."""
    many = one[torch.zeros(len(places), dtype=torch.long)]
    return replace(many, candidates=places.unsqueeze(1), counts=torch.from_numpy(counts))


# ---- long histories, and the item table


def _long(log: InteractionLog, history: int, search: int) -> dict[str, Any]:
    """The bare forward pass on a long history, with a search stage or without."""
    generator = np.random.default_rng(0)
    config = RankerConfig(claims=log.claims, items=1, history=history, search=search, inferred=0)
    model = Ranker(config).eval()
    rows = torch.from_numpy(generator.choice(np.arange(1, len(log.table)), CANDIDATES, replace=False))
    item_ids = [item.item_id for item in log.items]
    user = build_user(item_ids, 0, history, log.baskets[-1].time_ms, "", 1, generator)
    batch = build_batch(
        [user.history],
        [Inferred()],
        rows.unsqueeze(0),
        np.zeros((1, CANDIDATES, 3), np.float32),
        [log.baskets[-1].time_ms],
        torch.zeros(1, CANDIDATES, 0),
        log.table,
        config,
    )
    with torch.inference_mode():
        ids, content_embeddings = model.embed(log.table.contents, torch.zeros(len(log.table), dtype=torch.long))
        items = Embedded(log.table.slots, log.table.prices, log.table.contents, ids, content_embeddings)
        times = _called(lambda number: model(batch, items), 1, 20)
    return {"history": history, "search": search, "forward_p50_ms": round(float(np.median(times)) * 1000, 2)}


def _table_figures(size: int) -> dict[str, Any]:
    """What a batch of updates costs a table of that size, and what it takes in memory."""
    vocabulary = load_vocabulary(VOCABULARY)
    table = ItemTable(vocabulary, "bench", 384)
    generator = np.random.default_rng(0)
    pool = generator.normal(size=(1000, 384)).astype(np.float16)
    base = ItemFeatures(item_id="", event_time_ms=1, listed_ms=1, status="text", space_id="bench")
    for start in range(0, size, 10_000):
        numbers = range(start, min(size, start + 10_000))
        table.apply([changed(base, item_id=f"i{n}", vector=pool[n % 1000].tobytes()) for n in numbers])
    times = []
    for turn in range(UPDATES):
        numbers = generator.choice(size, UPDATED, replace=False).tolist()
        records = [changed(base, item_id=f"i{n}", event_time_ms=turn + 2, vector=pool[n % 1000].tobytes()) for n in numbers]
        started = time.perf_counter()
        table.apply(records)
        times.append(time.perf_counter() - started)
    return {
        "items": size,
        "updated_records": UPDATED,
        "update_p50_ms": round(float(np.percentile(times, 50)) * 1000, 2),
        "update_p99_ms": round(float(np.percentile(times, 99)) * 1000, 2),
        "tensors_mib": round(table.nbytes / 2**20, 1),
    }


def _key(repository: FeatureRepository, user_id: str) -> bytes:
    from feast.infra.key_encoding_utils import serialize_entity_key

    key: bytes = serialize_entity_key(entity_key("user_id", user_id), KEY_VERSION)
    return key
