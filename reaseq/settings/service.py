"""Settings of the ranking service."""

from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr

from reaseq.settings.group import SettingsGroup, Share

KEY_MIN_CHARS = 16


def _check_key(key: SecretStr) -> SecretStr:
    if not (key.get_secret_value().isascii() and key.get_secret_value().isprintable()):
        raise ValueError("a key has other characters than a header can carry: use printable ASCII")
    if len(key.get_secret_value().strip()) < KEY_MIN_CHARS:
        raise ValueError(f"a key has fewer than {KEY_MIN_CHARS} characters")
    return key


ApiKey = Annotated[SecretStr, AfterValidator(_check_key)]


class ServiceSettings(SettingsGroup):
    """The ranking service and its console."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, ge=1, le=65_535, description="Port to listen on.")
    device: str = Field(default="cpu", description="Torch device of the ranker: `cpu` or `cuda`.")
    threads: PositiveInt = Field(default=1, description="Threads that score: of ONNX Runtime and of PyTorch.")
    hosts: list[str] = Field(
        default=[],
        description="Host names under which the service is called, as a JSON list, besides `localhost` and addresses; requests "
        "for others are rejected. `*` allows all.",
    )
    api_keys: list[ApiKey] = Field(
        default=[], description="Accepted API keys of at least 16 characters, as a JSON list; no authentication if empty."
    )
    allow_anonymous: bool = Field(
        default=False, description="Start without API keys although the service listens elsewhere than on loopback."
    )
    open_metrics: bool = Field(default=False, description="Serve `/metrics` without an API key.")
    budget_ms: PositiveFloat = Field(default=50.0, description="Latency budget of a request that sets none.")
    store_timeout_ms: PositiveFloat = Field(default=10.0, description="Time limit of a user's feature read.")
    store_pause_s: NonNegativeFloat = Field(default=0.5, description="Pause in store reads after one has timed out.")
    remembered_users: NonNegativeInt = Field(default=10_000, description="Users whose last known features are kept in memory.")
    candidates_limit: PositiveInt = Field(default=5000, description="Maximum number of candidates in one request.")
    batch_limit_requests: PositiveInt = Field(
        default=64, description="Maximum number of requests in one call of `/v1/rank/batch`."
    )
    call_limit_candidates: PositiveInt = Field(
        default=32_000, description="Maximum number of candidates in all requests of such a call together."
    )
    batch_limit_candidates: PositiveInt = Field(default=8000, description="Maximum number of candidates in one forward pass.")
    queue_limit_requests: PositiveInt = Field(
        default=256, description="Requests that may wait for a forward pass; further ones are rejected."
    )
    body_limit_bytes: PositiveInt = Field(default=1024 * 1024, description="Largest request body.")
    reload_interval_s: PositiveFloat = Field(default=2.0, description="Interval between checks for a newly published ranker.")
    shadow_version: str = Field(
        default="", description="Published ranker version that scores a share of the requests in shadow."
    )
    shadow_share: Share = Field(default=0.1, description="Share of the requests that the shadow ranker scores.")
    served_feature_log_share: Share = Field(
        default=0.01, description="Share of the responses whose features are logged for `reaseq features parity`."
    )
    warm_up_overlap_s: NonNegativeFloat = Field(
        default=600.0,
        description="At start, the service tails its topics from this long before its scan of the store began.",
    )
    waiting_limit_aggregates: NonNegativeInt = Field(
        default=100_000,
        description="Rows of `item-aggregates` whose item is not onboarded yet that are kept until it is.",
    )
    drain_s: NonNegativeFloat = Field(default=2.0, description="Time at shutdown between reporting not ready and closing.")
    worker_urls: list[str] = Field(
        default=[],
        description="Workers that the console shows, as a JSON list of URLs; every address of a host name is queried.",
    )

    @property
    def url(self) -> str:
        """The address that the service listens on."""
        return f"http://{self.host}:{self.port}"
