"""The ranking service: API, micro-batching, degradation, user cache, hot reload, shadow scoring, client and console."""
