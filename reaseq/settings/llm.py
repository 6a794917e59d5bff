"""Settings of a language model's endpoint."""

from typing import Literal

from pydantic import BaseModel, Field, JsonValue, SecretStr

AnswerFormat = Literal["json_schema", "json_object", "none"]


class LlmSettings(BaseModel):
    """An OpenAI-compatible endpoint of a language model: its address, limits, retries and token budgets."""

    base_url: str = Field(
        default="", description="Base URL of the endpoint, such as http://127.0.0.1:8000/v1; no endpoint if empty."
    )
    api_key: SecretStr = Field(default=SecretStr(""), description="Bearer token for the endpoint.")
    model: str = Field(default="", description="Model name that the endpoint serves.")
    revision: str = Field(
        default="",
        description="Revision of the served model; when it changes, items are reasoned about again.",
    )
    temperature: float = Field(default=0.0, description="Sampling temperature.")
    seed: int | None = Field(default=None, description="Sampling seed; vLLM's CPU engine crashes on a request with a seed.")
    answer_format: AnswerFormat = Field(
        default="json_schema",
        description="How requests ask for the shape of an answer: json_schema, json_object, or none (by the prompt alone).",
    )
    extra_body: dict[str, JsonValue] = Field(
        default={}, description="Further or changed fields of each request body, as JSON; null removes one."
    )
    concurrency_limit_calls: int = Field(default=64, description="Maximum number of calls in flight.")
    connect_timeout_s: float = Field(default=5.0, description="Time limit for a connection.")
    answer_timeout_s: float = Field(default=120.0, description="Time limit for an answer.")
    attempts_limit: int = Field(default=4, description="Attempts of one call, including the first.")
    retry_first_s: float = Field(default=0.5, description="Wait before the first retry; doubles with each retry.")
    retry_limit_s: float = Field(default=20.0, description="Longest wait before a retry.")
    breaker_failures: int = Field(default=8, description="Consecutive failures that open the circuit breaker.")
    breaker_open_s: float = Field(default=15.0, description="Time for which an open circuit breaker rejects calls.")
    text_limit_chars: int = Field(default=4000, description="Maximum length of an item's text in a prompt.")
    reasoning_limit_chars: int = Field(default=500, description="Maximum length of an answer's reasoning field.")
    answer_limit_tokens: int = Field(default=1024, description="Tokens that the model may generate for one answer.")
    response_limit_bytes: int = Field(default=1024 * 1024, description="Largest response body that is read.")
    budget_item_tokens: int | None = Field(default=None, description="Token budget of one item; unlimited if empty.")
    budget_seller_day_tokens: int | None = Field(
        default=None, description="Token budget of one seller per day; unlimited if empty."
    )
    budget_day_tokens: int | None = Field(default=None, description="Token budget of all items per day; unlimited if empty.")
