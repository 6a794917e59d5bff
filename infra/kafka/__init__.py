"""Apache Kafka as local processes, fetched from Maven Central."""

from infra.kafka.broker import install, start_again, start_broker, start_cluster

__all__ = ["install", "start_again", "start_broker", "start_cluster"]
