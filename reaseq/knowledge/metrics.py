"""Prometheus metrics of explicit reasoning: names, labels and units."""

from prometheus_client import Counter, Gauge, Histogram

CALLS = Counter("reaseq_llm_calls", "Calls to the language model, by outcome", ["agent", "outcome"])
TOKENS = Counter("reaseq_llm_tokens", "Tokens as counted by the server; `cached` is part of `in`", ["agent", "kind"])
SECONDS = Histogram(
    "reaseq_llm_call_seconds",
    "Duration of a call, including retries",
    ["agent"],
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
IN_FLIGHT = Gauge("reaseq_llm_calls_in_flight", "Calls waiting for an answer or for a concurrency slot")
BREAKER_OPEN = Gauge("reaseq_llm_breaker_open", "1 while the endpoint's circuit breaker is open")
BUDGET_REJECTIONS = Counter(
    "reaseq_llm_budget_rejections", "Items without calls because a token budget was exhausted", ["budget"]
)
for _budget in ("item", "seller_day", "day"):  # created at 0, so that the first rejection shows as an increase
    BUDGET_REJECTIONS.labels(_budget)
CLAIMS_DROPPED = Counter("reaseq_claims_dropped", "Claims dropped by a check or by the critic", ["speaker", "reason"])
