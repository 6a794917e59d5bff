"""Brokers that do not answer: named, waited for no longer than was said, and nothing is left behind."""

import threading
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError

from reaseq.errors import BrokerUnavailable, DeliveryError
from reaseq.settings import KafkaSettings
from streams.contract.topics import EVENTS
from streams.runtime import kafka_clients as kafka
from streams.runtime.kafka_clients import TopicTailer, lags, new_consumer

NOBODY = KafkaSettings(bootstrap_servers="127.0.0.1:1")


def test_a_consumer_that_reaches_nobody_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())

    for _ in range(3):
        with pytest.raises(KafkaTimeoutError):
            new_consumer(NOBODY, timeout_ms=100)

    assert not {thread.name for thread in set(threading.enumerate()) - before}


def test_whoever_looks_is_told_which_brokers_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "LOOK_TIMEOUT_MS", 100)

    with pytest.raises(BrokerUnavailable, match=r"the brokers at 127\.0\.0\.1:1 do not answer"):
        lags(NOBODY, "reaseq", [EVENTS])


def test_who_waits_for_a_follower_hears_that_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*arguments: Any) -> None:
        raise KafkaTimeoutError("nobody")

    monkeypatch.setattr(kafka, "new_consumer", nobody)

    with pytest.raises(DeliveryError, match="following events failed"):
        TopicTailer(NOBODY, EVENTS, lambda records: None).start().wait()
