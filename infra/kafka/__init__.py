"""Apache Kafka on this machine: fetched from Maven Central, run as one process."""

from infra.kafka.broker import install, start_again, start_broker, start_cluster

__all__ = ["install", "start_again", "start_broker", "start_cluster"]
