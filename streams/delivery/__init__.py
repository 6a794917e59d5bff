"""The delivery contract: topics, messages, stages, delivery, dead letters and tracing. It knows no broker."""
