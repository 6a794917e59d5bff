"""Prometheus metrics of the stream. Names, labels and units in one place."""

from prometheus_client import Counter, Gauge, Histogram

FRESHNESS_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
BATCH_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

RECORDS = Counter("reaseq_records", "Records taken from a topic, by what became of them", ["stage", "outcome"])
DEAD = Counter("reaseq_dead_letters", "Records sent to the dead letters", ["stage", "reason"])
OUTCOMES = Counter("reaseq_outcomes", "What stages noticed on the way, such as an event for an unknown item", ["stage", "what"])
WRITTEN = Counter("reaseq_feature_records", "Feature records produced and made servable", ["stage"])
RETRIES = Counter("reaseq_waits", "Waits of a batch for something that does not answer", ["stage", "reason"])
FRESHNESS = Histogram(
    "reaseq_freshness_seconds",
    "Oldest input of a feature record produced to the record servable",
    ["stage"],
    buckets=FRESHNESS_BUCKETS_S,
)
BATCH = Histogram("reaseq_batch_seconds", "One batch from decode to servable", ["stage"], buckets=BATCH_BUCKETS_S)
LAST_PROGRESS = Gauge("reaseq_last_progress_timestamp_seconds", "When a stage last finished a batch", ["stage"])
STALLED = Gauge("reaseq_commit_stalled_seconds", "For how long nothing was committed though there is lag", ["topic"])
LAG = Gauge("reaseq_lag_records", "Records that a worker's partitions of a topic hold and it has not committed", ["topic"])
TAILED = Gauge("reaseq_tailed_records", "How far a process has followed a topic, over all partitions", ["topic"])
RECONCILED = Counter(
    "reaseq_reconciled_records", "Sampled records of a topic, by how the store stands to them", ["topic", "result"]
)
