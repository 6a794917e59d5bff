"""Prometheus metrics of explicit reasoning. Names, labels and units in one place."""

from prometheus_client import Counter, Gauge, Histogram

CALLS = Counter("reaseq_llm_calls", "Calls of the language model, by what became of them", ["agent", "outcome"])
TOKENS = Counter("reaseq_llm_tokens", "Tokens as the server counted them; `cached` is a part of `in`", ["agent", "kind"])
SECONDS = Histogram(
    "reaseq_llm_call_seconds", "One call, retries included", ["agent"], buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
)
IN_FLIGHT = Gauge("reaseq_llm_calls_in_flight", "Calls that wait for an answer or for a slot")
BREAKER_OPEN = Gauge("reaseq_llm_breaker_open", "1 while the endpoint is left alone because it does not answer")
BUDGET_REJECTIONS = Counter(
    "reaseq_llm_budget_rejections", "Items that no call was made for, by the budget that was used up", ["budget"]
)
for _budget in ("item", "seller_day", "day"):  # from the start, so that the first rejection is an increase
    BUDGET_REJECTIONS.labels(_budget)
CLAIMS_DROPPED = Counter("reaseq_claims_dropped", "Claims that a check or the critic dropped", ["speaker", "reason"])
