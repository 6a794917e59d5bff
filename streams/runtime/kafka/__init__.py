"""Kafka clients, one job per module.

    connection   addresses, TLS and SASL of every client; errors of unreachable brokers
    admin        create the topics
    producer     produce records, with confirmation
    consumer     open a consumer, list and seek partitions
    tailer       tail a topic from its start
    reader       read a topic, or a sample of it, once
    lag          how far a consumer group is behind

Brokers, credentials, size limits and the session timeout are set in `KafkaSettings` (`reaseq/settings/kafka.py`).
"""
