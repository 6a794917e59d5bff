"""The life of a deployment in a few minutes: backfill, train, publish and live replay, through the production stages."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.progress import Progress, TaskID

from demo import ANSWERS, ORDER_LINES
from demo.models import ID_ONLY, MODELS, POPULAR, RANKER, RECENT
from demo.record import Recorder
from demo.schedule import Schedule
from evaluation.baselines.cheap import fit_cheap
from evaluation.baselines.purchases import Purchases
from evaluation.datasets.online_retail import Order, read_retail
from evaluation.judge import Assortment, Judge
from features.repository import FeatureRepository
from pipelines.behavior_model import BehaviorModelPipeline
from pipelines.catalog import load_aggregate_table
from pipelines.ranker import RankerPipeline
from reaseq.artifacts import Artifact
from reaseq.behavior.examples import Basket
from reaseq.behavior.training import BehaviorTrainingConfig
from reaseq.ranker.engine import Engine, ScoringQuery
from reaseq.ranker.latent import LatentModels
from reaseq.ranker.model import RankerConfig
from reaseq.ranker.numbers import POPULARITY
from reaseq.ranker.onnx_forward import OnnxForward, export
from reaseq.ranker.training_data import RankerLog
from reaseq.records import Item
from reaseq.settings import Settings
from reaseq.training_loop import count_steps
from serving.degradation import RankingResult, RankingTask
from serving.served_feature_log import ServedFeatureLog
from streams.assembly import Batching, System, assemble
from streams.delivery.delivery import Delivery
from streams.delivery.stage import BatchPolicy
from streams.delivery.topics import ITEM_AGGREGATES, ITEM_FEATURES
from streams.item_aggregates_feed import ItemAggregatesFeed
from streams.runtime.in_process import InProcessBroker, InProcessRuntime

AT_ONCE = BatchPolicy(limit_records=1024, wait_s=0.0)
BATCHING = Batching(
    default=AT_ONCE, history=AT_ONCE, aggregates=AT_ONCE, archive=BatchPolicy(limit_records=4000, wait_s=3600.0)
)
ITEMS_CHUNK = 512  # large, so that enough texts have the same length
SERVED_SHARE = 0.2  # of the live rankings are logged as served features: the user's row and one item's
SERVED_STEP = 50  # that item is one of every SERVED_STEP-th product on sale
RANKER_HISTORY = 64  # latest behaviors that attention reads


class Lifecycle:
    """One run of the demo: `prepare` backfills and trains, `replay` plays the live part."""

    def __init__(self, schedule: Schedule, settings: Settings, models_dir: Path, progress: Progress) -> None:
        self.schedule = schedule
        self.recorder = Recorder()
        self.seconds: dict[str, float] = {}
        self._models_dir = models_dir
        self.latents = LatentModels(models_dir)
        self.served_features_dir = settings.served_features_dir
        self._progress = progress
        self._clock = time.perf_counter()
        task = progress.add_task("load the sample, the encoder and Feast", total=1)
        settings.knowledge.recorded_file = ANSWERS
        self.retail = read_retail(ORDER_LINES, schedule.customers_share, schedule.start_ms)
        store = FeatureRepository(settings, require_complete=True)
        store.apply()
        self.system: System = assemble(settings, store, BATCHING)
        self.broker = InProcessBroker()
        self.broker.subscribe(ITEM_FEATURES.name, self.system.items.apply_records)
        future_limit_s = settings.guard.future_limit_s
        self.runtime = InProcessRuntime(
            self.broker,
            lambda stage: Delivery(stage, self.broker, store, future_limit_s, self.recorder.servable),
            self.system.stages,
        )
        progress.advance(task)
        self._phase_done("load")

    async def prepare(self) -> Judge:
        """Backfill the training months, and train each model on the blocks before the one it is used in."""
        schedule = self.schedule
        first = self.retail.between(0, schedule.inference_ms)
        second = self.retail.between(schedule.inference_ms, schedule.replay_ms)
        earlier = (*first.orders, *second.orders)
        await self._onboard([*first.items, *second.items])
        await self._backfill("backfill the first months: histories", first.orders)
        until_ms = schedule.inference_ms
        pipeline = self._behavior_pipeline()
        baskets = pipeline.load_baskets(until_ms)
        self._phase_done("point-in-time join")
        self._train_behavior(pipeline, baskets, until_ms, schedule.behavior, "train the behavior model")
        await self._backfill("backfill the next months: inferred behaviors too", second.orders)
        await self.runtime.run_until_idle(flush=True)
        baskets = [sample.basket for sample in self._train_rankers(earlier).samples]
        self._train_behavior(
            self._behavior_pipeline(),
            baskets,
            schedule.replay_ms,
            schedule.behavior_update,
            "train the behavior model again, up to the replay",
        )
        self.peers = fit_cheap(self.purchases, len(self.system.table.snapshot))
        self._phase_done("fit the peers")
        return Judge(MODELS, {item_id for order in earlier for item_id in order.item_ids}, earlier)

    async def replay(self, judge: Judge) -> None:
        """Play the live part order by order: list new items, rank for the customer, judge, deliver the events."""
        orders = [order for order in self.retail.orders if order.time_ms >= self.schedule.replay_ms]
        task = self._progress.add_task("live replay", total=len(orders))
        items = list(reversed(self.live_items))
        self.recorder.live = True
        for order in orders:
            while items and items[-1].event_time_ms <= order.time_ms:
                await self.runtime.publish([items.pop()])
                await self.runtime.run_until_idle()
            self._rank(order, judge)
            await self.runtime.publish(order.events)
            await self.runtime.run_until_idle()
            self._learn(order, judge)
            self._progress.advance(task)
        self.recorder.live = False
        await self.runtime.run_until_idle(flush=True)
        self.recorder.dead_letters = len(self.broker.dead_letters)
        self._phase_done("live replay")

    @property
    def live_items(self) -> list[Item]:
        """The items that are listed during the live replay, in order of time."""
        return [item for item in self.retail.items if item.event_time_ms >= self.schedule.replay_ms]

    async def _onboard(self, items: Sequence[Item]) -> None:
        task = self._progress.add_task("onboard the items of the training months", total=len(items))
        for start in range(0, len(items), ITEMS_CHUNK):
            chunk = items[start : start + ITEMS_CHUNK]
            await self.runtime.publish(chunk)
            await self.runtime.run_until_idle()
            self._progress.advance(task, len(chunk))
        self._phase_done("onboard")

    async def _backfill(self, label: str, orders: Sequence[Order]) -> None:
        task = self._progress.add_task(label, total=len(orders))
        for chunk in _distinct_customers(orders):
            await self.runtime.publish([event for order in chunk for event in order.events])
            await self.runtime.run_until_idle()
            self._progress.advance(task, len(chunk))
        await self.runtime.run_until_idle(flush=True)
        self._phase_done("backfill")

    def _behavior_pipeline(self) -> BehaviorModelPipeline:
        return BehaviorModelPipeline(self.system.store, self.system.table, self._models_dir)

    def _train_behavior(
        self,
        pipeline: BehaviorModelPipeline,
        baskets: Sequence[Basket],
        until_ms: int,
        config: BehaviorTrainingConfig,
        label: str,
    ) -> None:
        """Train and publish a behavior model, infer with it from now on, and let the rankers read its latent states."""
        data, ids = pipeline.build_data(baskets)
        task = self._progress.add_task(label, total=count_steps(len(data.train), config))
        model, curve = pipeline.train(data, ids, config, progress=self._advance(task))
        artifact: Artifact = pipeline.publish(model, ids, until_ms, curve)
        self.system.use_behavior(artifact)
        self.latents.load(artifact.version)
        self._phase_done("train behavior")

    def _train_rankers(self, earlier: Sequence[Order]) -> RankerLog:
        """Train the ranker and its ids-only baseline on the second block, and publish the ranker; returns all samples."""
        schedule = self.schedule
        self._follow_aggregates()
        pipeline = RankerPipeline(self.system.store, self.system.table, self._models_dir)
        log, _ = pipeline.load_log(schedule.replay_ms)
        self._phase_done("point-in-time join")
        self.purchases, self.engines = Purchases(), dict[str, Engine]()
        for order in earlier:
            self._count(order)
        full = replace(pipeline.config, history=RANKER_HISTORY)
        ids_only = replace(full, vector_dim=0, claims=1, inferred=0, scores=0)
        configs: dict[str, RankerConfig] = {RANKER: full, ID_ONLY: ids_only}
        every = pipeline.build_data(log, schedule.ranker, full, since_ms=schedule.inference_ms)
        for name, config in configs.items():
            data = every.restricted_to(config)
            steps = count_steps(len(data.train), schedule.ranker)
            task = self._progress.add_task(f"train the {name}", total=steps)
            model, _ = pipeline.train(data, schedule.ranker, progress=self._advance(task))
            measured = pipeline.measure(model, data)
            pipeline.catch_up(model, data, schedule.ranker)
            read = self.system.table, self.aggregates, self.latents
            if name == RANKER:
                self.engines[name] = Engine.load(pipeline.publish(model, data, measured), *read)
            else:
                self.engines[name] = Engine(model, data.ids, name, *read, data.statistics, OnnxForward(export(model)))
        self._phase_done("train rankers")
        return log

    def _follow_aggregates(self) -> None:
        """Read the aggregates of the backfill, and keep them current from now on, as a ranking service does."""
        items = self.system.table
        self.aggregates = load_aggregate_table(self.system.store, items)
        feed = ItemAggregatesFeed(self.aggregates, items, waiting_limit=0)  # items come before their events
        self.broker.subscribe(ITEM_AGGREGATES.name, feed.apply_records)
        self._served = ServedFeatureLog(self.served_features_dir, SERVED_SHARE, items, self.aggregates)

    def _rank(self, order: Order, judge: Judge) -> None:
        started = time.perf_counter()
        user = self.system.store.read_users([order.user_id]).get(order.user_id)
        read = time.perf_counter()
        table = self.system.table.snapshot
        # The data lists an item with its first sale, so it could not be ranked for that basket.
        on_sale = table.live & (table.listed_ms < order.time_ms)
        rows = on_sale.nonzero().squeeze(-1)
        query = ScoringQuery(user, rows, order.time_ms)
        ranked = self.engines[RANKER].score_all([query], table)[0].probabilities
        done = time.perf_counter()
        self.recorder.rank_s.append(done - started)
        self.recorder.score_s.append(done - read)
        sampled = [table.ids[row] for row in rows[::SERVED_STEP].tolist()]
        task = RankingTask(order.user_id, sampled, order.time_ms, done)
        self._served.offer(task, RankingResult(ranked, "fresh", (), RANKER, user))
        ids_only = self.engines[ID_ONLY].score_all([query], table)[0].probabilities
        recent = self.aggregates.evaluate(np.arange(len(table)), order.time_ms)[:, POPULARITY][:, -1]
        scores = {RECENT: recent, POPULAR: judge.count_sales(table.ids[: len(table)])}
        for name, probabilities in ((RANKER, ranked), (ID_ONLY, ids_only)):
            scores[name] = np.full(len(table), -np.inf, np.float32)
            scores[name][rows] = probabilities
        for name, peer in self.peers.items():
            scores[name] = peer.score(order.user_id, order.time_ms, len(table))
        judge.judge(order, Assortment(table.ids, on_sale.numpy(), recent), scores)
        self.recorder.remember(order, user, table.ids, scores[RANKER])

    def _learn(self, order: Order, judge: Judge) -> None:
        judge.learn(order)
        self._count(order)

    def _count(self, order: Order) -> None:
        rows = self.system.table.snapshot.rows(order.item_ids).numpy()
        self.purchases.add(order.user_id, order.time_ms, rows)

    def _advance(self, task: TaskID) -> Callable[[int, float], None]:
        return lambda steps, loss: self._progress.advance(task, steps)

    def _phase_done(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._clock, 2)
        self._clock = now


def _distinct_customers(orders: Sequence[Order]) -> Iterator[list[Order]]:
    """Chunks in which no customer appears twice, so that the archive holds what was known before each basket."""
    chunk: list[Order] = []
    customers: set[str] = set()
    for order in orders:
        if order.user_id in customers:
            yield chunk
            chunk, customers = [], set()
        chunk.append(order)
        customers.add(order.user_id)
    yield chunk
