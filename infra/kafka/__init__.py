"""Apache Kafka on this machine: fetched from Maven Central, run as one process."""

from infra.kafka.broker import install, start_broker

__all__ = ["install", "start_broker"]
