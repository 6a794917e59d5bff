"""The ranking service beside the stream: its item table and popularity follow the topics, users are read from Feast."""

from collections.abc import Sequence

import msgspec
import torch
import uvicorn

from features.repository import FeatureRepository
from reaseq.artefacts import current
from reaseq.knowledge.vocabulary import vocabulary_in_force
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine
from reaseq.ranker.popularity import Popularity
from reaseq.ranker.service import create_app
from reaseq.records import Event, ItemFeatures
from reaseq.representation.item_table import ItemTable
from reaseq.settings import Settings
from streams.kafka import Follower
from streams.messages import RawRecord
from streams.topics import EVENTS, ITEM_FEATURES


def run_service(settings: Settings) -> None:
    """Serve rankings until SIGTERM."""
    torch.set_num_threads(settings.service.threads)
    vocabulary = vocabulary_in_force()
    artefact = current(settings.models_dir, RANKER)
    artefact.require(vocabulary=vocabulary.version)
    # The model says which space it was trained on; the table refuses items of any other.
    table = ItemTable(vocabulary, artefact.facts["space_id"], artefact.facts["vector_dim"])
    popularity = Popularity()
    engine = Engine.load(artefact, table, popularity)
    store = FeatureRepository(settings)
    store.apply()

    def take_items(records: Sequence[RawRecord]) -> None:
        table.apply([msgspec.json.decode(record.value, type=ItemFeatures) for record in records if record.value])

    def take_events(records: Sequence[RawRecord]) -> None:
        for record in records:
            try:
                event = msgspec.json.decode(record.value or b"", type=Event)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # the behaviour stage has sent it to the dead letters
            popularity.observe(int(table.snapshot.rows([event.item_id])[0]), event.event_time_ms)

    followers = {"items": Follower(settings.kafka, ITEM_FEATURES, take_items).start()}
    followers["items"].caught_up.wait()
    followers["events"] = Follower(settings.kafka, EVENTS, take_events).start()

    def waiting_for() -> str | None:
        for name, follower in followers.items():
            follower.check()
            if not follower.caught_up.is_set():
                return name
        return None

    app = create_app(engine, store, waiting_for, settings.service.candidates_limit)
    uvicorn.run(app, host=settings.service.host, port=settings.service.port, log_level="warning")
