"""The ranking service beside the stream: its item table and popularity follow the topics, users are read from Feast."""

import asyncio
import gc
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import structlog
import torch
import uvicorn
from fastapi import FastAPI

from features.repository import FeatureRepository
from reaseq.artifacts import Artifact, current, load_version
from reaseq.behavior.history import event_key
from reaseq.days import DAY_MS
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine
from reaseq.ranker.latent import LatentModels
from reaseq.ranker.popularity import HALF_LIVES_DAYS, Popularity
from reaseq.records import Event, ItemFeatures
from reaseq.representation.item_table import ItemTable
from reaseq.settings import Settings
from serving.app import AppState, create_app
from serving.degradation import DegradingRanker
from serving.reload import Reloader
from serving.served_feature_log import ServedFeatureLog
from serving.shadow import Shadow
from serving.user_cache import UserCache
from streams.contract.messages import RawRecord
from streams.contract.topics import EVENTS, ITEM_FEATURES
from streams.runtime.kafka_clients import TopicTailer

log = structlog.get_logger()

COUNTED_DAYS = 4 * max(HALF_LIVES_DAYS)  # an event older than that counts for a sixteenth at most
SHADOW_SEED = 0
ACTIVE_USERS = 200


class RankingService:
    """Everything that one ranking service holds, but for its web server."""

    def __init__(self, settings: Settings) -> None:
        service = settings.service
        torch.set_num_threads(service.threads)
        self.settings = settings
        self.vocabulary = load_vocabulary(settings.knowledge.vocabulary)
        artifact = current(settings.models_dir, RANKER)
        # The model says which space it was trained on; the table rejects items of any other, as do later models.
        self._space_id = artifact.facts["space_id"]
        self.table = ItemTable(self.vocabulary, self._space_id, artifact.facts["vector_dim"], service.device)
        self.popularity = Popularity()
        latents = LatentModels(settings.models_dir)
        self.ranking = DegradingRanker(self._engine(latents, artifact), self._users())
        self.shadow = self._shadow() if service.shadow_version else None
        read = [latents, self.shadow.engine.latents] if self.shadow else [latents]
        self.reloader = Reloader(
            settings.models_dir, self.ranking, read, partial(self._engine, latents), service.reload_interval_s
        )
        self.draining = False
        self._active_users: deque[str] = deque(maxlen=ACTIVE_USERS)
        self._tailers: dict[str, TopicTailer] = {}

    def start(self) -> None:
        """Fill the table from Feast, then follow the topics; returns when the table has caught up."""
        began_ms = int(time.time() * 1000)
        store = FeatureRepository(self.settings)
        store.apply()
        for page in store.scan_items():
            self.table.apply(page)
        log.info("warmed_up", items=len(self.table.snapshot) - 1, mib=round(self.table.nbytes / 2**20, 1))
        # Records reach the topic before the store: what the scan missed was produced a little before it.
        since_ms = began_ms - int(self.settings.service.warm_up_overlap_s * 1000)
        kafka = self.settings.kafka
        self._tailers["items"] = TopicTailer(kafka, ITEM_FEATURES, self._take_items, since_ms).start()
        self._tailers["items"].wait()
        counted_ms = began_ms - int(COUNTED_DAYS * DAY_MS)
        self._tailers["events"] = TopicTailer(kafka, EVENTS, self._take_events, counted_ms).start()
        self.reloader.look()
        self.ranking.warm_up(candidates=500)
        gc.collect()
        gc.freeze()  # what is there now stays: no collection walks through it while somebody waits
        self.reloader.start()

    def waiting_for(self) -> str | None:
        """What the service is not ready without."""
        if self.draining:
            return "its end"
        for name in ("items", "events"):
            tailer = self._tailers[name]
            tailer.check()
            if not tailer.caught_up.is_set():
                return name
        return None

    def app_state(self) -> AppState:
        """What the web service works with."""
        served = ServedFeatureLog(self.settings.served_features_dir, self.settings.service.served_feature_log_share, self.table)
        return AppState(self.ranking, self.settings.service, self.waiting_for, self.shadow, served.offer)

    def active_users(self) -> list[str]:
        """The users whose events came last, newest first."""
        return list(dict.fromkeys(reversed(list(self._active_users))))

    def _engine(self, latents: LatentModels, artifact: Artifact) -> Engine:
        artifact.require(vocabulary=self.vocabulary.version, space_id=self._space_id)
        return Engine.load(artifact, self.table, self.popularity, latents)

    def _users(self) -> UserCache:
        """Reads that give up early: the budget of a request is short."""
        service = self.settings.service
        settings = self.settings.model_copy(deep=True)
        settings.store.redis_timeout_s = service.store_timeout_ms / 1000
        return UserCache(FeatureRepository(settings), service.remembered_users, service.store_pause_s)

    def _shadow(self) -> Shadow:
        service, models = self.settings.service, self.settings.models_dir
        latents = LatentModels(models)
        engine = self._engine(latents, load_version(models, RANKER, service.shadow_version))
        return Shadow(engine, service.shadow_share, random.Random(SHADOW_SEED).random)  # noqa: S311  a sample, no secret

    def _take_items(self, records: Sequence[RawRecord]) -> None:
        self.table.apply([msgspec.json.decode(record.value, type=ItemFeatures) for record in records if record.value])

    def _take_events(self, records: Sequence[RawRecord]) -> None:
        events = []
        for record in records:
            try:
                event = msgspec.json.decode(record.value or b"", type=Event)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # a wish to be forgotten, or what the behavior stage has sent to the dead letters
            if not event.retracted:
                events.append(event)
        self._active_users.extend(event.user_id for event in events)
        rows = self.table.snapshot.rows([event.item_id for event in events])
        keys = [event_key(event.event_id) for event in events]
        self.popularity.observe(rows.cpu().numpy(), [event.event_time_ms for event in events], keys)


class _Server(uvicorn.Server):
    """Says that it is not ready for a while before it stops to listen, so that no balancer sends it what it would refuse."""

    def __init__(self, config: uvicorn.Config, serving: RankingService, drain_s: float) -> None:
        super().__init__(config)
        self._serving, self._drain_s = serving, drain_s

    def handle_exit(self, sig: int, frame: object) -> None:
        """SIGTERM and SIGINT; the second one ends it at once."""
        if self._serving.draining or sig == signal.SIGINT:
            super().handle_exit(sig, frame)  # type: ignore[arg-type]
            return
        self._serving.draining = True
        threading.Timer(self._drain_s, super().handle_exit, (sig, None)).start()


def run_service(settings: Settings, beside: Callable[[FastAPI, RankingService], None]) -> None:
    """Serve rankings until SIGTERM; then answer what was asked, and end. `beside` adds what else the web service has."""
    serving = RankingService(settings)
    serving.start()
    service = settings.service
    beside(app := create_app(serving.app_state()), serving)
    config = uvicorn.Config(app, host=service.host, port=service.port, log_level="warning")
    asyncio.run(_Server(config, serving, service.drain_s).serve())
