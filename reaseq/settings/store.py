"""Settings of the online feature store."""

from typing import Literal

from pydantic import BaseModel, Field, SecretStr


class StoreSettings(BaseModel):
    """The online feature store."""

    profile: Literal["embedded", "production"] = Field(
        default="embedded", description="Feast profile: `embedded` (SQLite, no service) or `production` (Redis)."
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis URL, with user, password and TLS if needed: rediss://user:password@host:6379/0?ssl_ca_certs=/path/ca.pem",
    )
    redis_timeout_s: float = Field(default=2.0, description="Time limit of one Redis call.")
    redis_replicas: int = Field(
        default=0, description="Replicas that must acknowledge a write; with 0, a failover loses writes not yet replicated."
    )
