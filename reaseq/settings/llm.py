"""Settings of a language model's endpoint."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, JsonValue, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr

from reaseq.settings.group import SettingsGroup

AnswerFormat = Literal["json_schema", "json_object", "none"]


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = not url or (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.username
        )
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("is not of the form http://host:port/v1, or https:// for TLS; the key is a setting of its own")
    return url


class LlmSettings(SettingsGroup):
    """An OpenAI-compatible endpoint of a language model: its address, limits, retries and token budgets."""

    base_url: Annotated[str, AfterValidator(_check_url)] = Field(
        default="", description="Base URL of the endpoint, such as http://127.0.0.1:8000/v1; no endpoint if empty."
    )
    api_key: SecretStr = Field(default=SecretStr(""), description="Bearer token for the endpoint.")
    model: str = Field(default="", description="Model name that the endpoint serves.")
    revision: str = Field(
        default="",
        description="Revision of the served model; when it changes, items are reasoned about again.",
    )
    temperature: NonNegativeFloat = Field(default=0.0, description="Sampling temperature.")
    seed: int | None = Field(default=None, description="Sampling seed; vLLM's CPU engine crashes on a request with a seed.")
    answer_format: AnswerFormat = Field(
        default="json_schema",
        description="How requests ask for the shape of an answer: json_schema, json_object, or none (by the prompt alone).",
    )
    extra_body: dict[str, JsonValue] = Field(
        default={}, description="Further or changed fields of each request body, as JSON; null removes one."
    )
    concurrency_limit_calls: PositiveInt = Field(default=64, description="Maximum number of calls in flight.")
    connect_timeout_s: PositiveFloat = Field(default=5.0, description="Time limit for a connection.")
    answer_timeout_s: PositiveFloat = Field(default=120.0, description="Time limit for an answer.")
    attempts_limit: PositiveInt = Field(default=4, description="Attempts of one call, including the first.")
    retry_first_s: NonNegativeFloat = Field(default=0.5, description="Wait before the first retry; doubles with each retry.")
    retry_limit_s: NonNegativeFloat = Field(default=20.0, description="Longest wait before a retry.")
    breaker_failures: PositiveInt = Field(default=8, description="Consecutive failures that open the circuit breaker.")
    breaker_open_s: NonNegativeFloat = Field(default=15.0, description="Time for which an open circuit breaker rejects calls.")
    text_limit_chars: PositiveInt = Field(default=4000, description="Maximum length of an item's text in a prompt.")
    reasoning_limit_chars: PositiveInt = Field(default=500, description="Maximum length of an answer's reasoning field.")
    answer_limit_tokens: PositiveInt = Field(default=1024, description="Tokens that the model may generate for one answer.")
    response_limit_bytes: PositiveInt = Field(default=1024 * 1024, description="Largest response body that is read.")
    budget_item_tokens: NonNegativeInt | None = Field(default=None, description="Token budget of one item; unlimited if empty.")
    budget_seller_day_tokens: NonNegativeInt | None = Field(
        default=None, description="Token budget of one seller per day; unlimited if empty."
    )
    budget_day_tokens: NonNegativeInt | None = Field(
        default=None, description="Token budget of all items per day; unlimited if empty."
    )
