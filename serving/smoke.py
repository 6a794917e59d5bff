"""A smoke test of a running system: its own item and event travel from the topics to a ranking, and are deleted again."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from uuid import uuid4

from features.repository import FeatureRepository
from reaseq.errors import BrokerUnavailable, DeliveryError
from reaseq.records import Event, Item
from reaseq.settings import Settings
from serving.api import RankingRequest
from serving.client import RankingClient, RankingUnavailable
from streams.delivery.messages import RawRecord
from streams.delivery.topics import EVENTS, ITEMS
from streams.runtime.kafka.producer import Producer

POLL_S = 0.05
BUDGET_MS = 5000.0


def smoke(settings: Settings, url: str, timeout_s: float) -> Iterator[tuple[str, float]]:
    """Yield each check that passed and how many seconds it took. Raises DeliveryError if one takes longer than `timeout_s`."""
    smoke_id = f"smoke-{uuid4().hex[:12]}"
    keys = [key.get_secret_value() for key in settings.service.api_keys]
    producer = Producer(settings.kafka)
    try:
        with RankingClient(url, keys[0] if keys else "", BUDGET_MS) as client:
            for name, is_done, culprit in _checks(FeatureRepository(settings), producer, client, url, smoke_id):
                yield name, _wait(is_done, timeout_s, culprit)
    finally:
        with suppress(BrokerUnavailable):  # must not hide an earlier error
            _delete(producer, smoke_id)
        producer.close()


def _checks(
    store: FeatureRepository, producer: Producer, client: RankingClient, url: str, smoke_id: str
) -> Iterator[tuple[str, Callable[[], bool], str]]:
    """Each check, its condition, and the culprit if the condition is not met in time. Produces the records in between."""
    now_ms = int(time.time() * 1000)
    producer.send([Item(item_id=smoke_id, title="A red enamel mug", event_time_ms=now_ms)])
    yield "item is servable", lambda: smoke_id in store.read_items([smoke_id]), "onboarding"
    yield "item is reasoned", lambda: _is_reasoned(store, smoke_id), "reasoning"
    producer.send([Event(event_id=smoke_id, user_id=smoke_id, item_id=smoke_id, type="view", event_time_ms=now_ms)])
    yield "event is servable", lambda: smoke_id in store.read_users([smoke_id]), "the history stage"
    yield "ranking uses both", lambda: _is_ranked(client, smoke_id), f"the ranking service at {url}"


def _delete(producer: Producer, smoke_id: str) -> None:
    now_ms = int(time.time() * 1000)
    producer.send_raw([RawRecord(topic.name, smoke_id.encode(), None, now_ms) for topic in (ITEMS, EVENTS)])


def _is_reasoned(store: FeatureRepository, item_id: str) -> bool:
    return store.read_items([item_id])[item_id].status == "reasoned"


def _is_ranked(client: RankingClient, smoke_id: str) -> bool:
    try:
        response = client.rank(RankingRequest(user_id=smoke_id, candidate_ids=[smoke_id]))
    except RankingUnavailable:
        return False
    unknown = {"unknown_user", "unknown_candidates"} & set(response.degraded)
    return response.fallback_level == "fresh" and bool(response.model) and not unknown


def _wait(is_done: Callable[[], bool], timeout_s: float, culprit: str) -> float:
    """Seconds until `is_done`."""
    started = time.monotonic()
    while not is_done():
        if time.monotonic() - started > timeout_s:
            raise DeliveryError(f"{culprit} did not finish within {timeout_s:g} s: not running, or behind; see `reaseq status`")
        time.sleep(POLL_S)
    return time.monotonic() - started
