"""Creates the topics, waits for them, and reads their ids."""

import time
from collections.abc import Sequence
from contextlib import closing

import structlog
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import TopicAlreadyExistsError

from reaseq.backoff import Backoff
from reaseq.errors import BrokerUnavailable, DeliveryError
from reaseq.settings import KafkaSettings
from streams.delivery.topics import TOPICS, Topic
from streams.runtime.kafka.connection import COMPRESSION, broker_errors, client_options

log = structlog.get_logger()

KNOWN_WITHIN_S = 60.0
RETRY = Backoff(first_s=0.5, limit_s=5.0)


def create_topics(settings: KafkaSettings) -> list[str]:
    """Create the missing topics, wait until the brokers know them, and return their names. Existing topics are left unchanged.

    Raises BrokerUnavailable.
    """
    with broker_errors(settings), closing(KafkaAdminClient(**client_options(settings))) as admin:
        missing = _missing_topics(admin)
        try:
            if missing:
                admin.create_topics([_new_topic(topic, settings) for topic in missing])
        except TopicAlreadyExistsError:
            log.info("topics_created_by_another_process")
        _wait_until_known(admin)
        return [topic.name for topic in missing]


def _wait_until_known(admin: KafkaAdminClient) -> None:
    # The controller creates a topic; a broker that has not heard of it yet answers that there is none.
    deadline = time.monotonic() + KNOWN_WITHIN_S
    while unknown := _missing_topics(admin):
        if time.monotonic() > deadline:
            raise BrokerUnavailable(f"topics {_names(unknown)} were created, but the brokers still do not know them")
        time.sleep(0.1)


def wait_for_topics(settings: KafkaSettings) -> None:
    """Return once every topic exists. Until then, and while no broker answers, log what is missing and try again.

    A first installation starts workers and ranking services together with `reaseq setup`.
    """
    attempt = 0
    while missing := _find_missing(settings):
        wait_s = RETRY.wait_s(attempt)
        log.warning("waiting_for_topics", missing=missing, created_by="reaseq setup", retry_in_s=wait_s)
        time.sleep(wait_s)
        attempt += 1


def _find_missing(settings: KafkaSettings) -> str:
    """The names of missing topics, or the error of a broker that does not answer; empty if all topics exist."""
    try:
        with broker_errors(settings), closing(KafkaAdminClient(**client_options(settings))) as admin:
            return _names(_missing_topics(admin))
    except BrokerUnavailable as error:
        return str(error)


def _missing_topics(admin: KafkaAdminClient) -> list[Topic]:
    present = set(admin.list_topics())
    return [topic for topic in TOPICS if topic.name not in present]


def _names(topics: Sequence[Topic]) -> str:
    return ", ".join(topic.name for topic in topics)


def read_topic_id(settings: KafkaSettings, topic: Topic) -> str:
    """The id that the brokers gave the topic when it was created.

    Raises BrokerUnavailable, or DeliveryError if there is no such topic.
    """
    with broker_errors(settings), closing(KafkaAdminClient(**client_options(settings))) as admin:
        (found,) = admin.describe_topics([topic.name])
    if found["error_code"]:
        raise DeliveryError(f"topic {topic.name!r} does not exist: run `reaseq setup` first")
    return str(found["topic_id"])


def _new_topic(topic: Topic, settings: KafkaSettings) -> NewTopic:
    config = {
        "cleanup.policy": topic.cleanup,
        # The broker's time of arrival, which no producer can forge. It is also what retention and compaction go by.
        "message.timestamp.type": "LogAppendTime",
        # Whatever producers compress with: kafka-python reads Snappy and Zstandard only with further libraries.
        "compression.type": COMPRESSION,
        "max.message.bytes": str(settings.record_limit_bytes),
        "min.insync.replicas": str(settings.min_insync_replicas),
    }
    if topic.retention_ms:
        config["retention.ms"] = str(topic.retention_ms)
    if "compact" in topic.cleanup:
        config["min.compaction.lag.ms"] = str(int(settings.min_compaction_lag_s * 1000))
        config["max.compaction.lag.ms"] = str(int(settings.max_compaction_lag_s * 1000))
    return NewTopic(topic.name, settings.partitions, settings.replication_factor, topic_configs=config)
