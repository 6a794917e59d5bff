"""The life of a deployment in a few minutes: backfill, train, publish, then live replay, through the production stages."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, TaskID
from torch import nn

from demo import ANSWERS, ORDER_LINES
from demo.judge import ID_ONLY, POPULAR, RANKER, RECENT, Judge, Moment
from demo.record import Recorder
from demo.schedule import Plan
from evaluation.datasets.online_retail import Order, read_retail
from features.historical import users_before
from features.parity import ServedFeatureLog
from reaseq.artifacts import Artifact
from reaseq.behavior import training as behavior_training
from reaseq.behavior.examples import Basket
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.behavior.model import BehaviorConfig
from reaseq.behavior.training import HELD_OUT_SHARE, BehaviorTrainingConfig, build_training_data
from reaseq.days import to_day
from reaseq.knowledge.vocabulary import vocabulary_in_force
from reaseq.model_artifacts import publish_model
from reaseq.ranker import training as ranker_training
from reaseq.ranker.batch import FEATURES
from reaseq.ranker.engine import KIND as RANKER_KIND
from reaseq.ranker.engine import Engine, ScoringQuery
from reaseq.ranker.latent import SCORES, LatentModels
from reaseq.ranker.model import RankerConfig
from reaseq.ranker.popularity import Popularity
from reaseq.ranker.training import Sample, build_examples
from reaseq.records import Inferred, Item
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import Settings
from reaseq.training_loop import count_steps
from serving.degradation import Answer, Ask
from streams.assembly import System, assemble
from streams.contract.delivery import Delivery
from streams.contract.stage import BatchPolicy
from streams.contract.topics import ITEM_FEATURES
from streams.runtime.in_process import InProcessBroker, InProcessRuntime

BATCH = BatchPolicy(limit_records=1024, wait_s=0.0)
ARCHIVE_BATCH = BatchPolicy(limit_records=4000, wait_s=3600.0)
ITEMS_CHUNK = 128
ORDERS_CHUNK = 16
SERVED_SHARE = 0.2  # of the live rankings whose rows are held against the point-in-time join: the user's and one item's
SERVED_STEP = 50  # of the products on sale, every so many may be that item
RANKER_HISTORY = 64  # half of what is kept: every product is ranked before every basket, twice
RANKER_HELD_OUT_SHARE = 0.1  # of its baskets, the latest: to calibrate on


class Lifecycle:
    """One run of the demo: `prepare` backfills and trains, `replay` is the live part."""

    def __init__(self, plan: Plan, settings: Settings, models: Path, progress: Progress) -> None:
        self.plan = plan
        self.recorder = Recorder()
        self.seconds: dict[str, float] = {}
        self._models = models
        self.latents = LatentModels(models)
        self.served_folder = settings.state_dir / "served"
        self._progress = progress
        self._clock = time.perf_counter()
        task = progress.add_task("load the sample, the encoder and Feast", total=1)
        settings.knowledge.recorded_file = ANSWERS
        self.retail = read_retail(ORDER_LINES, plan.customers_share, plan.start_ms)
        self.system: System = assemble(settings, BATCH, ARCHIVE_BATCH)
        self.log = InProcessBroker()
        self.log.subscribe(ITEM_FEATURES.name, self.system.apply_item_records)
        self._served = ServedFeatureLog(self.served_folder, SERVED_SHARE, self.system.table)
        self.runtime = InProcessRuntime(
            self.log,
            lambda stage: Delivery(stage, self.log, self.system.store, settings.guard.future_limit_s, self.recorder.servable),
            self.system.stages,
        )
        progress.advance(task)
        self._phase_done("load")

    async def prepare(self) -> Judge:
        """Backfill the training months, and train each model on the blocks before the one it works on."""
        plan = self.plan
        first = self.retail.between(0, plan.inference_ms)
        second = self.retail.between(plan.inference_ms, plan.replay_ms)
        earlier = (*first.orders, *second.orders)
        await self._onboard([*first.items, *second.items])
        await self._backfill("replay the first months: histories", first.orders)
        behavior = self._train_behavior(first.orders, plan.inference_ms, plan.behavior, "train the behavior model")
        self._use_behavior(behavior)
        await self._backfill("replay the next months: with inferred behaviors", second.orders)
        await self.runtime.run_until_idle(flush=True)
        self._train_rankers(earlier, second.orders)
        behavior = self._train_behavior(earlier, plan.replay_ms, plan.behavior_update, "train it again, to this day")
        self._use_behavior(behavior)
        return Judge({item_id for order in earlier for item_id in order.item_ids}, earlier)

    def _use_behavior(self, artifact: Artifact) -> None:
        """Infer with a model from now on, and read the states that it leaves."""
        self.system.use_behavior(artifact)
        self.latents.load(artifact.version)

    async def replay(self, judge: Judge) -> None:
        """The live part, order by order: list what is new, rank for the customer, judge, then deliver the events."""
        orders = [order for order in self.retail.orders if order.time_ms >= self.plan.replay_ms]
        task = self._progress.add_task("live replay: rank, judge, learn", total=len(orders))
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
        self.recorder.dead_letters = len(self.log.dead_letters)
        self._phase_done("live replay")

    @property
    def live_items(self) -> list[Item]:
        """What is listed during the live replay, in its order."""
        return [item for item in self.retail.items if item.event_time_ms >= self.plan.replay_ms]

    async def _onboard(self, items: Sequence[Item]) -> None:
        task = self._progress.add_task("onboard the catalog of the training months", total=len(items))
        for start in range(0, len(items), ITEMS_CHUNK):
            chunk = items[start : start + ITEMS_CHUNK]
            await self.runtime.publish(chunk)
            await self.runtime.run_until_idle()
            self._progress.advance(task, len(chunk))
        self._phase_done("onboard")

    async def _backfill(self, label: str, orders: Sequence[Order]) -> None:
        task = self._progress.add_task(label, total=len(orders))
        for chunk in _without_repeats(orders):
            await self.runtime.publish([event for order in chunk for event in order.events])
            await self.runtime.run_until_idle()
            self._progress.advance(task, len(chunk))
        await self.runtime.run_until_idle(flush=True)
        self._phase_done("backfill")

    def _baskets(self, orders: Sequence[Order]) -> list[tuple[Basket, Inferred]]:
        """The orders with what Feast knew of each customer strictly before."""
        known = users_before(self.system.store, [o.user_id for o in orders], [o.time_ms for o in orders])
        return [
            (Basket(order.user_id, order.time_ms, order.item_ids, history), inferred)
            for order, (history, inferred) in zip(orders, known, strict=True)
        ]

    def _train_behavior(self, orders: Sequence[Order], until_ms: int, plan: BehaviorTrainingConfig, label: str) -> Artifact:
        baskets = [basket for basket, _ in self._baskets(orders)]
        self._phase_done("point-in-time join")
        config = BehaviorConfig(claims=vocabulary_in_force().size, vector_dim=self.system.encoder.dim)
        data, ids = build_training_data(baskets, self.system.table.snapshot, config, HELD_OUT_SHARE)
        config = replace(config, items=len(ids))
        task = self._progress.add_task(label, total=count_steps(len(data.train), plan))
        model, _ = behavior_training.train(data, config, plan, progress=self._advance(task))
        self._phase_done("train behavior")
        return self._publish(BEHAVIOR, until_ms, model, config, ids)

    def _train_rankers(self, earlier: Sequence[Order], orders: Sequence[Order]) -> None:
        samples = [Sample(basket, inferred) for basket, inferred in self._baskets(orders)]
        self._phase_done("point-in-time join")
        table, ids, plan = self.system.table.snapshot, _trained(earlier), self.plan.ranker
        events = [(order.time_ms, item_id) for order in earlier for item_id in order.item_ids]
        full = RankerConfig(
            claims=vocabulary_in_force().size,
            items=len(ids),
            vector_dim=self.system.encoder.dim,
            history=RANKER_HISTORY,
            scores=SCORES,
        )
        self.popularity, self.engines = Popularity(), {}
        for order in earlier:
            self._count(order)
        for name, config in ((RANKER, full), (ID_ONLY, replace(full, vector_dim=0, claims=1, inferred=0, scores=0))):
            examples = build_examples(samples, events, table, self.latents, config, plan)
            cut = round(len(examples) * (1 - RANKER_HELD_OUT_SHARE))
            task = self._progress.add_task(f"train the {name}", total=count_steps(cut, plan))
            places = torch.arange(len(examples))
            parts = examples[places[:cut]], examples[places[cut:]]
            model, _ = ranker_training.train(*parts, table, ids, config, plan, progress=self._advance(task))
            self.engines[name] = Engine(model, ids, name, self.system.table, self.popularity, self.latents)
            if name == RANKER:
                self._publish(RANKER_KIND, self.plan.replay_ms, model, config, ids, features=FEATURES)
        self._phase_done("train rankers")

    def _rank(self, order: Order, judge: Judge) -> None:
        started = time.perf_counter()
        user = self.system.store.read_users([order.user_id]).get(order.user_id)
        read = time.perf_counter()
        table = self.system.table.snapshot
        # The data lists an item with its first sale: that basket could not have chosen it by what we know.
        on_sale = table.live & (table.listed_ms < order.time_ms)
        rows = on_sale.nonzero().squeeze(-1)
        query = ScoringQuery(user, rows, order.time_ms)
        ranked = self.engines[RANKER].score_all([query], table)[0].probabilities
        done = time.perf_counter()
        self.recorder.rank_s.append(done - started)
        self.recorder.score_s.append(done - read)
        some = [table.ids[row] for row in rows[::SERVED_STEP].tolist()]
        ask = Ask(order.user_id, some, order.time_ms, done)
        self._served.offer(ask, Answer(ranked, "fresh", (), RANKER, user))
        ids_only = self.engines[ID_ONLY].score_all([query], table)[0].probabilities
        counts = self.popularity.counts(np.arange(len(table)), order.time_ms)
        scores = {RECENT: counts[:, -1], POPULAR: judge.sold(table.ids[: len(table)])}
        for name, of_rows in ((RANKER, ranked), (ID_ONLY, ids_only)):
            scores[name] = np.full(len(table), -np.inf, np.float32)
            scores[name][rows] = of_rows
        judge.judge(order, Moment(table.ids, on_sale.numpy(), counts[:, -1]), scores)
        self.recorder.remember(order, user, table.ids, scores[RANKER])

    def _learn(self, order: Order, judge: Judge) -> None:
        judge.learn(order)
        self._count(order)

    def _count(self, order: Order) -> None:
        rows = self.system.table.snapshot.rows(order.item_ids).numpy()
        self.popularity.observe(rows, [order.time_ms] * len(rows))

    def _publish(self, kind: str, until_ms: int, model: nn.Module, config: Any, ids: TrainedIds, **more: str) -> Artifact:
        facts = {
            "space_id": self.system.encoder.space_id,
            "vector_dim": self.system.encoder.dim,
            "vocabulary": vocabulary_in_force().version,
            "trained_until_ms": until_ms,
            **more,
            "data": f"online-retail sample, {self.plan.name}",
        }
        return publish_model(self._models, kind, to_day(until_ms), model, config, ids, facts)

    def _advance(self, task: TaskID) -> Callable[[int, float], None]:
        return lambda steps, loss: self._progress.advance(task, steps)

    def _phase_done(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._clock, 2)
        self._clock = now


def _without_repeats(orders: Sequence[Order]) -> Iterator[list[Order]]:
    """Chunks in which no customer comes twice, so that the archive holds what was known before each basket."""
    chunk: list[Order] = []
    customers: set[str] = set()
    for order in orders:
        if order.user_id in customers or len(chunk) == ORDERS_CHUNK:
            yield chunk
            chunk, customers = [], set()
        chunk.append(order)
        customers.add(order.user_id)
    yield chunk


def _trained(orders: Sequence[Order]) -> TrainedIds:
    return TrainedIds(sorted({item_id for order in orders for item_id in order.item_ids}))
