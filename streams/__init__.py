"""Streaming: topics, messages, stages, delivery, and the two runtimes (Faust on Kafka, and in-process)."""
