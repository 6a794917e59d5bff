"""Brokers that do not answer: clients name them, give up in time, and leave nothing behind."""

import threading
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError

from reaseq.backoff import Backoff
from reaseq.errors import BrokerUnavailable, DeliveryError
from reaseq.settings import KafkaSettings
from streams.delivery.topics import EVENTS
from streams.runtime.kafka import consumer, tailer
from streams.runtime.kafka.consumer import new_consumer
from streams.runtime.kafka.lag import lags
from streams.runtime.kafka.tailer import TopicTailer

UNREACHABLE = KafkaSettings(bootstrap_servers="127.0.0.1:1")


def test_consumer_that_cannot_connect_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())

    for _ in range(3):
        with pytest.raises(KafkaTimeoutError):
            new_consumer(UNREACHABLE, timeout_ms=100)

    assert not {thread.name for thread in set(threading.enumerate()) - before}


def test_query_error_names_the_unreachable_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "QUERY_TIMEOUT_MS", 100)

    with pytest.raises(BrokerUnavailable, match=r"a request to the brokers at 127\.0\.0\.1:1 failed"):
        lags(UNREACHABLE, "reaseq", [EVENTS])


def test_tailer_tries_again_until_a_broker_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Semaphore(0)

    def fail(*arguments: Any) -> None:
        tried.release()
        raise KafkaTimeoutError("unreachable")

    monkeypatch.setattr(tailer, "new_consumer", fail)
    monkeypatch.setattr(tailer, "RECONNECT", Backoff(first_s=0.0, limit_s=0.0))
    tail = TopicTailer(UNREACHABLE, EVENTS, lambda records: None).start()

    for _ in range(3):
        assert tried.acquire(timeout=10)
    assert not tail.failure and not tail.caught_up.is_set()
    tail.stop()


def test_waiting_for_a_failed_tailer_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(tailer, "new_consumer", fail)

    with pytest.raises(DeliveryError, match=r"tailing events failed: ValueError\('a bug'\)"):
        TopicTailer(UNREACHABLE, EVENTS, lambda records: None).start().wait()
