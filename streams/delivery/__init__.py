"""The delivery contract: topics, messages, stages, delivery, dead letters and tracing. Independent of any broker."""
