"""A check that the whole system works: an item and an event of its own, from the topics to a ranking, and away again."""

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
from streams.contract.messages import RawRecord
from streams.contract.topics import EVENTS, ITEMS
from streams.runtime.kafka_clients import Producer

POLL_S = 0.05
BUDGET_MS = 5000.0


def smoke(settings: Settings, url: str, timeout_s: float) -> Iterator[tuple[str, float]]:
    """What worked, one after the other, and how many seconds it took. Raises DeliveryError where something did not in time."""
    name, store = f"smoke-{uuid4().hex[:12]}", FeatureRepository(settings)
    now_ms = int(time.time() * 1000)
    keys = [key.get_secret_value() for key in settings.service.api_keys]
    producer = Producer(settings.kafka)
    try:
        with RankingClient(url, keys[0] if keys else "", BUDGET_MS) as client:
            producer.send([Item(item_id=name, title="A red enamel mug", event_time_ms=now_ms)])
            yield "an item is servable", _wait(lambda: name in store.read_items([name]), timeout_s, "onboarding")
            yield "it is reasoned about", _wait(lambda: _is_reasoned(store, name), timeout_s, "reasoning")
            producer.send([Event(event_id=name, user_id=name, item_id=name, type="view", event_time_ms=now_ms)])
            yield (
                "a user's event is servable",
                _wait(lambda: name in store.read_users([name]), timeout_s, "the behavior stage"),
            )
            yield "it ranks by both", _wait(lambda: _is_ranked(client, name), timeout_s, f"the ranking service at {url}")
    finally:
        with suppress(BrokerUnavailable):  # what went wrong before is told
            producer.send_raw(
                [RawRecord(topic.name, name.encode(), None, int(time.time() * 1000)) for topic in (ITEMS, EVENTS)]
            )
        producer.close()


def _is_reasoned(store: FeatureRepository, name: str) -> bool:
    return store.read_items([name])[name].status == "reasoned"


def _is_ranked(client: RankingClient, name: str) -> bool:
    try:
        answer = client.rank(RankingRequest(user_id=name, candidate_ids=[name]))
    except RankingUnavailable:
        return False
    return (
        answer.fallback_level == "fresh"
        and bool(answer.model)
        and not {"unknown_user", "unknown_candidates"} & set(answer.degraded)
    )


def _wait(met: Callable[[], bool], timeout_s: float, stage: str) -> float:
    started = time.monotonic()
    while not met():
        if time.monotonic() - started > timeout_s:
            raise DeliveryError(
                f"{stage} did not do it within {timeout_s:g} s: it does not run, or is behind; see `reaseq status`"
            )
        time.sleep(POLL_S)
    return time.monotonic() - started
