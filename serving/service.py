"""The ranking service as a process: it keeps the items and their aggregates in tables, and reads users from Feast."""

import asyncio
import gc
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial

import structlog
import torch
import uvicorn
from fastapi import FastAPI

from features.repository import FeatureRepository
from reaseq.aggregates import BUILT_IN, AggregateTable
from reaseq.artifacts import Artifact, load_newest, load_version
from reaseq.declaration import load_declaration
from reaseq.errors import StoreUnavailable
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine
from reaseq.ranker.latent import LatentModels
from reaseq.representation.item_table import ItemTable
from reaseq.settings import Settings
from serving.access import check_exposure
from serving.active_users import ACTIVE_USERS, ActiveUsers
from serving.app import AppState, create_app
from serving.degradation import DegradingRanker
from serving.reload import Reloader
from serving.served_feature_log import ServedFeatureLog
from serving.shadow import Shadow
from serving.user_cache import UserCache
from streams.delivery.topics import ITEM_AGGREGATES, ITEM_FEATURES, USER_FEATURES
from streams.item_aggregates_feed import ItemAggregatesFeed
from streams.item_table_feed import ItemTableFeed
from streams.runtime.http_server import BoundedConfig
from streams.runtime.kafka.admin import wait_for_topics
from streams.runtime.kafka.tailer import TopicTailer

log = structlog.get_logger()

WARM_UP_CANDIDATES = 500
SHADOW_SEED = 0


class RankingService:
    """Everything a ranking service consists of, except its web server."""

    def __init__(self, settings: Settings) -> None:
        service = settings.service
        torch.set_num_threads(service.threads)
        self.settings = settings
        self.vocabulary = load_vocabulary(settings.knowledge.vocabulary)
        self.declaration = load_declaration(settings.declaration_file)
        self.aggregates = AggregateTable(BUILT_IN)
        latents = LatentModels(settings.models_dir)
        engine = load_newest(settings.models_dir, RANKER, partial(self._load_first_engine, latents))
        self.table = engine.table
        self.item_aggregates = ItemAggregatesFeed(self.aggregates, self.table, service.waiting_limit_aggregates)
        self.items = ItemTableFeed(self.table, self.item_aggregates.items_arrived)
        self.active_users = ActiveUsers()
        self.ranker = DegradingRanker(engine, self._open_user_cache())
        self.shadow = self._load_shadow() if service.shadow_version else None
        self.reloader = Reloader(
            settings.models_dir,
            self.ranker,
            [latents, self.shadow.engine.latents] if self.shadow else [latents],
            partial(self._load_engine, self.table, latents),
            service.reload_interval_s,
        )
        self.draining = False
        self._tailers: dict[str, TopicTailer] = {}

    def start(self) -> None:
        """Fill the tables from Feast, then tail the topics. Returns when the tables have caught up.

        While the store, or one of its shards, does not answer, they are filled from the topics alone, which takes longer.
        """
        started_ms = int(time.time() * 1000)
        # A record reaches its topic before the store, so what the scan missed was produced shortly before the scan.
        since_ms: int | None = started_ms - int(self.settings.service.warm_up_overlap_s * 1000)
        try:
            self._scan()
        except StoreUnavailable as error:
            log.warning("store_unavailable", error=str(error), consequence="the topics are read from their beginning")
            since_ms = None
        for name, topic, apply in (
            ("items", ITEM_FEATURES, self.items.apply_records),
            ("aggregates", ITEM_AGGREGATES, self.item_aggregates.apply_records),
        ):
            self._tailers[name] = TopicTailer(self.settings.kafka, topic, apply, since_ms).start()
        for tailer in self._tailers.values():
            tailer.wait()
        TopicTailer(self.settings.kafka, USER_FEATURES, self.active_users.observe, last_records=ACTIVE_USERS).start()
        self.reloader.check()
        self.ranker.warm_up(WARM_UP_CANDIDATES)
        gc.collect()
        gc.freeze()  # objects that live until the end; no collection during a request has to walk them
        self.reloader.start()

    def waiting_for(self) -> str | None:
        """What the service still needs before it can rank; None if it is ready."""
        if self.draining:
            return "shutdown"
        waiting = (name for name, tailer in self._tailers.items() if tailer.failure or not tailer.caught_up.is_set())
        return next(waiting, None)

    def failure(self) -> str | None:
        """Why only a restart helps; None if the service is alive."""
        return next((tailer.failure for tailer in self._tailers.values() if tailer.failure), None)

    def app_state(self) -> AppState:
        """The state of the web application."""
        folder, share = self.settings.served_features_dir, self.settings.service.served_feature_log_share
        served = ServedFeatureLog(folder, share, self.table, self.aggregates)
        return AppState(self.ranker, self.settings.service, self.waiting_for, self.failure, self.shadow, served.offer)

    def _scan(self) -> None:
        repository = FeatureRepository(self.settings)
        for items in repository.scan_items():
            self.items.apply(items)
        for aggregates in repository.scan_aggregates():
            self.item_aggregates.apply(aggregates)
        mib = {"items_mib": round(self.table.nbytes / 2**20, 1), "aggregates_mib": round(self.aggregates.nbytes / 2**20, 1)}
        log.info("warmed_up", items=len(self.table.snapshot) - 1, **mib)

    def _load_first_engine(self, latents: LatentModels, artifact: Artifact) -> Engine:
        """A ranker on a new item table of the space that it was trained on, which skips items of any other."""
        with artifact.reading():
            space_id, dim = artifact.facts["space_id"], artifact.facts["vector_dim"]
            table = ItemTable(self.vocabulary, space_id, dim, self.settings.service.device, self.declaration)
        return self._load_engine(table, latents, artifact)

    def _load_engine(self, table: ItemTable, latents: LatentModels, artifact: Artifact) -> Engine:
        artifact.require(vocabulary=self.vocabulary.version, space_id=table.space_id)
        return Engine.load(artifact, table, self.aggregates, latents)

    def _open_user_cache(self) -> UserCache:
        """A cache whose store reads time out early, because a request's budget is short."""
        service = self.settings.service
        settings = self.settings.model_copy(deep=True)
        settings.store.redis_timeout_s = service.store_timeout_ms / 1000
        return UserCache(FeatureRepository(settings), service.remembered_users, service.store_pause_s)

    def _load_shadow(self) -> Shadow:
        service, models_dir = self.settings.service, self.settings.models_dir
        artifact = load_version(models_dir, RANKER, service.shadow_version)
        engine = self._load_engine(self.table, LatentModels(models_dir), artifact)
        return Shadow(engine, service.shadow_share, random.Random(SHADOW_SEED).random)  # noqa: S311  a sample, no secret


class _DrainingServer(uvicorn.Server):
    """On SIGTERM, reports not ready for `drain_s` before it stops listening, so that load balancers stop sending requests."""

    def __init__(self, config: uvicorn.Config, service: RankingService, drain_s: float) -> None:
        super().__init__(config)
        self._service, self._drain_s = service, drain_s

    def handle_exit(self, sig: int, frame: object) -> None:
        """Drain on the first SIGTERM. SIGINT, or a second SIGTERM, stops the server at once."""
        if self._service.draining or sig == signal.SIGINT:
            super().handle_exit(sig, frame)  # type: ignore[arg-type]
            return
        self._service.draining = True
        threading.Timer(self._drain_s, super().handle_exit, (sig, None)).start()


def run_service(settings: Settings, extend: Callable[[FastAPI, RankingService], None]) -> None:
    """Serve rankings until SIGTERM, then finish the requests in flight. `extend` adds further routes to the application.

    Raises InvalidSettings if the service would be open to other machines.
    """
    check_exposure(settings.service)
    wait_for_topics(settings.kafka)
    service = RankingService(settings)
    service.start()
    app = create_app(service.app_state())
    extend(app, service)
    limits, body_limit_bytes = settings.http, settings.service.body_limit_bytes
    config = BoundedConfig(app, settings.service.host, settings.service.port, limits, body_limit_bytes)
    asyncio.run(_DrainingServer(config, service, settings.service.drain_s).serve())
