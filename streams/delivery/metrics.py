"""Prometheus metrics of the stream: names, labels and units."""

from prometheus_client import Counter, Gauge, Histogram

FRESHNESS_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
BATCH_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

RECORDS = Counter("reaseq_records", "Records consumed by a stage, by outcome", ["stage", "outcome"])
DEAD_LETTERS = Counter("reaseq_dead_letters", "Records sent to the dead-letter queue", ["stage", "reason"])
OUTCOMES = Counter("reaseq_outcomes", "Outcomes that stages count, such as an event for an unknown item", ["stage", "what"])
WRITTEN = Counter("reaseq_feature_records", "Feature records produced and made servable", ["stage"])
WAITS = Counter("reaseq_waits", "Times a batch waited for an unavailable service", ["stage", "reason"])
FRESHNESS = Histogram(
    "reaseq_freshness_seconds",
    "Time from when a feature record's oldest input was produced until the record is servable",
    ["stage"],
    buckets=FRESHNESS_BUCKETS_S,
)
BATCH = Histogram(
    "reaseq_batch_seconds", "Time from decoding a batch until its records are servable", ["stage"], buckets=BATCH_BUCKETS_S
)
LAST_PROGRESS = Gauge("reaseq_last_progress_timestamp_seconds", "When a stage last finished a batch", ["stage"])
STALLED = Gauge("reaseq_commit_stalled_seconds", "Time without a commit despite lag", ["topic"])
LAG = Gauge("reaseq_lag_records", "Uncommitted records in the partitions assigned to a worker", ["topic"])
SKIPPED = Counter(
    "reaseq_skipped_records", "Records of a topic that a reader skipped because it could not use them", ["topic", "reason"]
)
CONNECTIONS_CLOSED = Counter(
    "reaseq_http_connections_closed", "Connections that an HTTP server closed at one of its limits", ["reason"]
)
WAITING_AGGREGATES = Gauge(
    "reaseq_aggregates_waiting_for_items",
    "Rows of aggregates that a reader does not use yet, because their item is not in its item table",
)
TAILED = Gauge("reaseq_tailed_records", "Position of a tailer in its topic, summed over all partitions", ["topic"])
STORE_EVICTS = Gauge("reaseq_store_evicts", "1 if the store may evict rows when its memory is full, else 0")
STORE_EVICTED_KEYS = Gauge(
    "reaseq_store_evicted_keys", "Keys that a shard of the store has evicted since it started", ["shard"]
)
RECONCILED = Counter(
    "reaseq_reconciled_records",
    "Sampled records of a topic, by how the store compares with them; `lost` if a worker found its own write missing",
    ["topic", "result"],
)
