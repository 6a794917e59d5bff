"""Runs the stages, on Kafka through Faust or in one process: batching, offsets, watchdog. `kafka/` has the Kafka clients."""
