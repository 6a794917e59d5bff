"""Ranking 500 candidates with their features, compared with Feast alone and with the bare forward pass and user read.

All sides run in one process against one real Redis, with the catalog of Online Retail, users with histories of several
lengths, and one ranker of the default size (its weights are random, which costs the same). A lone caller is measured in
`benchmarks.lone_caller`. Here, each side is called by 1, 8 and 32 concurrent callers:

- `rank`: the ranking as the service calls it: user read, features, micro-batch, forward pass, fallback levels, budget.
- `feast_per_candidate`: Feast's own Redis store, one feature per column. `get_online_features` for the user, the 500 candidates
  and the items of the history; then the same model, fed candidate by candidate. It skips the latent scores.
- `forward`: the bare forward pass on prepared tensors, one at a time on its own thread.
- `raw_read`: the same bytes of the user from Redis.

The sides take turns, and a figure covers all calls of its side. A caller waits for the result before its next call.
"""

import gc
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import redis
import torch
from feast import FeatureStore
from feast.infra.key_encoding_utils import serialize_entity_key
from msgspec.structs import replace as changed
from rich.console import Console

import features.definitions as views
from benchmarks import lone_caller
from benchmarks.feast_alone import build_table, start_feast, write_items, write_users
from benchmarks.folded_events import fold_purchases
from benchmarks.lone_caller import Caller, bare_forward, in_process
from demo import ANSWERS, ORDER_LINES, VOCABULARY
from evaluation.datasets.interaction_log import InteractionLog
from evaluation.experiments import online_retail
from features.packed_store import KEY_VERSION, entity_key
from features.repository import FeatureRepository
from infra import process
from infra.redis import start_redis
from reaseq import float16
from reaseq.aggregates import BUILT_IN, AggregateTable
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.days import DAY_MS
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.model_artifacts import publish_model
from reaseq.ranker.batch import RankedUser, build_batch
from reaseq.ranker.engine import Engine
from reaseq.ranker.item_statistics import fit
from reaseq.ranker.latent import SCORES, LatentModels
from reaseq.ranker.model import Embedded, Ranker, RankerBatch, RankerConfig
from reaseq.ranker.onnx_forward import OnnxForward, export
from reaseq.records import History, Inferred, ItemFeatures, UserFeatures
from reaseq.representation.encoder import Encoder
from reaseq.representation.item_table import ItemTable
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import Settings

CANDIDATES, USERS = 500, 64
CALLERS, HISTORIES = (1, 8, 32), (50, 200, 1000)
LONE_HISTORIES = (50, 200)
CALLS, FEAST_CALLS, TURNS = 300, 30, 3  # calls per side at each point, and the turns they are split into
LONG_HISTORIES = (1000, 10_000)
SEARCH = 48  # behaviors that the search stage keeps
UPDATES, UPDATE_RECORDS = 40, 256
TABLE_ITEMS = (10_000, 100_000)


@dataclass(frozen=True)
class RankingBench:
    """Users with histories of one length, and every side of the comparison on them."""

    settings: Settings
    table: ItemTable
    engine: Engine
    eager: Engine  # the same, without ONNX Runtime
    feast_engine: Engine  # the same model for `feast_per_candidate`, which has no item table
    users: list[UserFeatures]
    candidates: list[str]
    now_ms: int
    feast: FeatureStore

    @property
    def caller(self) -> Caller:
        """What every caller asks for."""
        return Caller(self.users, self.candidates, self.now_ms)

    def sides(self) -> dict[str, Callable[[int], object]]:
        """Each side as a function of the call's number, which chooses the user."""
        return {
            "rank": in_process(self.settings, self.engine, self.caller),
            "forward": bare_forward(self.engine, self.caller),
            "raw_read": self.raw_read(),
            "feast_per_candidate": lambda number: self._feast_per_candidate(self.users[number % USERS].user_id),
        }

    def raw_read(self) -> Callable[[int], object]:
        """Reads a user's bytes from Redis."""
        client = redis.Redis.from_url(self.settings.store.redis_url.get_secret_value())
        project = FeatureRepository(self.settings).config.project
        prefixes = [f"{project}:{view.name}:".encode() for view in (views.user_history, views.user_inferred)]
        keys = [[prefix + _key(user.user_id) for prefix in prefixes] for user in self.users]
        return lambda number: client.mget(keys[number % USERS])

    def _feast_per_candidate(self, user_id: str) -> torch.Tensor:
        row = self.feast.get_online_features(
            features=[f"user:{name}" for name in ("item_ids", "types", "times_ms", "inferred", "confidences")],
            entity_rows=[{"user_id": user_id}],
        ).to_dict()
        acted_on, types, times_ms = (tuple(row[name][0]) for name in ("item_ids", "types", "times_ms"))
        history = History(item_ids=acted_on, types=types, times_ms=times_ms, event_keys=(0,) * len(acted_on))
        inferred = Inferred(item_ids=tuple(row["inferred"][0]), confidences=tuple(row["confidences"][0]))
        item_ids = list(dict.fromkeys([*self.candidates, *history.item_ids, *inferred.item_ids]))
        columns = self.feast.get_online_features(
            features=[f"item:{name}" for name in ("vector", "claims", "claim_confidences", "price", "listed_ms", "counts")],
            entity_rows=[{"item_id": item_id} for item_id in item_ids],
        ).to_dict()
        table = build_table(item_ids, columns)
        rows = table.rows(self.candidates)
        counts = np.array(columns["counts"][:CANDIDATES], np.float32)
        users, no_scores = [RankedUser(history, inferred, self.now_ms)], torch.zeros(1, CANDIDATES, SCORES)
        together = build_batch(users, rows.unsqueeze(0), counts[None], no_scores, table, self.engine._model.config)
        return self.feast_engine.score_batch(_separate(together), table)


def run() -> dict[str, Any]:
    """The lone caller, then every side at every history length and number of callers."""
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
                log = online_retail.build_experiment(
                    ORDER_LINES, ANSWERS, Encoder(Settings().encoder), Path("var/evaluation")
                ).log
            grid, alone = [], []
            for history in HISTORIES:
                with console.status(f"rebuilding Redis: histories of {history}"):
                    bench = _build_bench(settings, log, history, port)
                sides = bench.sides()
                gc.collect()
                gc.freeze()  # like the service
                if history in LONE_HISTORIES:
                    measured = lone_caller.measure(settings, bench.engine, bench.eager, bench.caller, sides["raw_read"])
                    alone.append({"history": history} | measured)
                    console.print(alone[-1])
                for callers in CALLERS:
                    grid.append({"history": history, "callers": callers} | _measure(sides, callers))
                    console.print(grid[-1])
            return {
                **{name: value for name, value in alone[0].items() if name != "history"},
                "lone_caller": alone,
                "by_history_and_callers": grid,
                "long_histories": [
                    _measure_long_history(log, history, search) for history in LONG_HISTORIES for search in (0, SEARCH)
                ],
                "item_table": [_measure_table(size) for size in TABLE_ITEMS],
                "candidates": CANDIDATES,
                "items": len(log.items),
                "threads": 1,
            }
        finally:
            process.stop(settings.run_dir, "redis")


def _measure(sides: dict[str, Callable[[int], object]], callers: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        _call_concurrently(call, 1, 1)
    for turn in range(TURNS):
        for name, call in sides.items():
            if not name.startswith("feast"):
                times[name] += _call_concurrently(call, callers, max(CALLS // TURNS, callers))
            elif turn == TURNS // 2:  # its calls take seconds, so it gets only one turn, in the middle
                times[name] += _call_concurrently(call, callers, max(FEAST_CALLS, callers))
    figures: dict[str, Any] = {}
    for name, seconds in times.items():
        for percent in (50, 99):
            figures[f"{name}_p{percent}_ms"] = round(float(np.percentile(seconds, percent)) * 1000, 3)
    for percent in (50, 99):
        rank = figures[f"rank_p{percent}_ms"]
        parts = figures[f"forward_p{percent}_ms"] + figures[f"raw_read_p{percent}_ms"]
        figures[f"feast_over_rank_p{percent}"] = round(figures[f"feast_per_candidate_p{percent}_ms"] / rank, 1)
        figures[f"rank_over_forward_and_read_p{percent}"] = round(rank / parts, 2)
    return figures


def _call_concurrently(call: Callable[[int], object], callers: int, calls: int) -> list[float]:
    """Seconds per call, for `calls` calls shared by the callers."""
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


def _build_bench(settings: Settings, log: InteractionLog, history: int, port: int) -> RankingBench:
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
    records = [_build_record(log, index) for index in range(len(log.items))]
    table.apply(records)
    aggregates = AggregateTable(BUILT_IN)
    sold = fold_purchases((item_id, basket.time_ms) for basket in log.baskets for item_id in basket.item_ids)
    aggregates.apply(table.snapshot.rows([record.item_id for record in sold]).tolist(), sold)
    model = Ranker(RankerConfig(claims=vocabulary.size, items=len(ids), history=history, scores=SCORES))
    item_ids, width = [item.item_id for item in log.items], config.backbone.width
    users = [build_user(item_ids, number, history, now_ms, version, width, generator) for number in range(USERS)]
    repository = FeatureRepository(settings)
    repository.apply()
    repository.write(users)
    candidates = [log.items[index].item_id for index in generator.choice(len(log.items), CANDIDATES, replace=False)]
    statistics = fit([(basket.user_id, basket.item_ids) for basket in log.baskets])
    eager = Engine(model, ids, "eager", table, aggregates, latents, statistics)
    onnx = OnnxForward(export(model))
    engine, feast_engine = (
        Engine(model, ids, name, table, aggregates, latents, statistics, onnx) for name in ("bench", "feast")
    )
    feast = start_feast(settings, port)
    write_items(feast, log, aggregates, table)
    write_users(feast, users)
    return RankingBench(settings, table, engine, eager, feast_engine, users, candidates, now_ms, feast)


def _build_record(log: InteractionLog, index: int) -> ItemFeatures:
    item = log.items[index]
    return ItemFeatures(
        item_id=item.item_id,
        event_time_ms=item.event_time_ms,
        listed_ms=item.event_time_ms,
        status="reasoned",
        title=item.title,
        price=item.price,
        space_id="bench",
        vector=float16.pack(log.table.contents.vectors[index + 1].numpy()),
        knowledge=log.answers[index],
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
    """A random user with `history` behaviors in the 200 days before `now_ms` and a latent state (width,) of model `version`."""
    observed = generator.choice(len(item_ids), history)
    times = tuple(now_ms - DAY_MS * 200 * (history - index) // history for index in range(history))
    inferred = generator.choice(len(item_ids), 16, replace=False)
    return UserFeatures(
        user_id=f"user-{number}",
        event_time_ms=times[-1],
        events_seen=history,
        history=History(
            item_ids=tuple(item_ids[index] for index in observed),
            types=(4,) * history,
            times_ms=times,
            event_keys=tuple(range(history)),
        ),
        inferred=Inferred(
            item_ids=tuple(item_ids[index] for index in inferred),
            confidences=tuple(np.linspace(0.1, 0.01, 16).astype(np.float16).tolist()),
            model=version,
            as_of_ms=times[-1],
            events_seen=history,
            latent=float16.pack(generator.normal(size=width)),
        ),
    )


def _separate(batch: RankerBatch) -> RankerBatch:
    """The batch of one user as one row for each candidate."""
    repeated = batch[torch.zeros(batch.candidates.shape[1], dtype=torch.long)]
    return replace(repeated, candidates=batch.candidates.T, numbers=batch.numbers.transpose(0, 1))


# ---- long histories, and updates of the item table


def _measure_long_history(log: InteractionLog, history: int, search: int) -> dict[str, Any]:
    """The bare forward pass on a long history, with a search stage (`search` > 0) or without."""
    generator = np.random.default_rng(0)
    config = RankerConfig(claims=log.claims, items=1, history=history, search=search, inferred=0)
    model = Ranker(config).eval()
    rows = torch.from_numpy(generator.choice(np.arange(1, len(log.table)), CANDIDATES, replace=False))
    item_ids = [item.item_id for item in log.items]
    user = build_user(item_ids, 0, history, log.baskets[-1].time_ms, "", 1, generator)
    batch = build_batch(
        [RankedUser(user.history, Inferred(), log.baskets[-1].time_ms)],
        rows.unsqueeze(0),
        np.zeros((1, CANDIDATES, 3), np.float32),
        torch.zeros(1, CANDIDATES, 0),
        log.table,
        config,
    )
    with torch.inference_mode():
        embedded = model.embed(log.table.contents, torch.zeros(len(log.table), dtype=torch.long))
        items = Embedded(log.table.slots, log.table.contents, *embedded)
        times = _call_concurrently(lambda number: model(batch, items), 1, 20)
    return {"history": history, "search": search, "forward_p50_ms": round(float(np.median(times)) * 1000, 2)}


def _measure_table(size: int) -> dict[str, Any]:
    """Time of a batch of updates, and memory, for a table of `size` items."""
    vocabulary = load_vocabulary(VOCABULARY)
    table = ItemTable(vocabulary, "bench", 384)
    generator = np.random.default_rng(0)
    pool = generator.normal(size=(1000, 384)).astype(np.float16)
    base = ItemFeatures(item_id="", event_time_ms=1, listed_ms=1, status="text", space_id="bench")
    for start in range(0, size, 10_000):
        numbers = range(start, min(size, start + 10_000))
        table.apply([changed(base, item_id=f"i{n}", vector=pool[n % 1000].tobytes()) for n in numbers])
    times = []
    for update in range(UPDATES):
        numbers = generator.choice(size, UPDATE_RECORDS, replace=False).tolist()
        records = [changed(base, item_id=f"i{n}", event_time_ms=update + 2, vector=pool[n % 1000].tobytes()) for n in numbers]
        started = time.perf_counter()
        table.apply(records)
        times.append(time.perf_counter() - started)
    return {
        "items": size,
        "updated_records": UPDATE_RECORDS,
        "update_p50_ms": round(float(np.percentile(times, 50)) * 1000, 2),
        "update_p99_ms": round(float(np.percentile(times, 99)) * 1000, 2),
        "tensors_mib": round(table.nbytes / 2**20, 1),
    }


def _key(user_id: str) -> bytes:
    key: bytes = serialize_entity_key(entity_key("user_id", user_id), KEY_VERSION)
    return key
