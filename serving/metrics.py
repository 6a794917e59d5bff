"""Prometheus metrics of the ranking service. Names, labels and units in one place."""

from prometheus_client import Counter, Gauge, Histogram

RANK_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1)

REQUESTS = Counter("reaseq_rank_requests", "Ranking requests answered, by fallback level", ["fallback_level"])
DEGRADED = Counter(
    "reaseq_rank_degraded", "Reasons why requests were answered at a lower fallback level or without some features", ["reason"]
)
REJECTED = Counter("reaseq_rank_rejected", "Ranking requests rejected", ["reason"])
LATENCY = Histogram("reaseq_rank_seconds", "One ranking request from arrival to response", buckets=RANK_BUCKETS_S)
SERVED_LOG_FAILURES = Counter(
    "reaseq_served_feature_log_failures", "Sampled rankings whose features could not be written to the served-feature log"
)
TABLE_ITEMS = Gauge("reaseq_item_table_items", "Items in the item table, delisted items included")
TABLE_BYTES = Gauge("reaseq_item_table_bytes", "Bytes of the item table's tensors, spare capacity included")
AGGREGATES_BYTES = Gauge("reaseq_aggregate_table_bytes", "Bytes of the aggregates of the items, spare capacity included")
RELOADS = Counter("reaseq_rank_reloads", "Published rankers loaded or rejected", ["outcome"])

for _outcome in ("taken_over", "rejected"):  # exported from the start, so that the first one is an increase
    RELOADS.labels(_outcome)
