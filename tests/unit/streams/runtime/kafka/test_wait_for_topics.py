"""Workers and ranking services that start before `reaseq setup` wait for the topics instead of failing."""

import pytest
from kafka.errors import KafkaTimeoutError

from reaseq.settings import KafkaSettings
from streams.delivery.topics import TOPICS
from streams.runtime.kafka import admin

NAMES = [topic.name for topic in TOPICS]


class StandInAdmin:
    """Lists the topics of each moment in turn; an exception stands for a broker that does not answer."""

    def __init__(self, *moments: list[str] | Exception) -> None:
        self.moments = list(moments)

    def __call__(self, **options: object) -> "StandInAdmin":
        return self

    def list_topics(self) -> list[str]:
        moment = self.moments.pop(0)
        if isinstance(moment, Exception):
            raise moment
        return moment

    def close(self) -> None: ...


def test_it_waits_for_the_broker_and_then_for_every_topic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    brokers = StandInAdmin(KafkaTimeoutError(), [], NAMES[:-1], [*NAMES, "another"])
    waits: list[float] = []
    monkeypatch.setattr(admin, "KafkaAdminClient", brokers)
    monkeypatch.setattr("time.sleep", waits.append)

    admin.wait_for_topics(KafkaSettings())

    assert brokers.moments == []
    assert waits == [0.5, 1.0, 2.0]


def test_it_does_not_wait_if_all_topics_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "KafkaAdminClient", StandInAdmin(NAMES))
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waited"))

    admin.wait_for_topics(KafkaSettings())
