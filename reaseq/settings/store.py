"""Settings of the online feature store."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, SecretStr

from reaseq.settings.group import SettingsGroup


def _check_url(url: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(url.get_secret_value())
        valid = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("is not of the form redis://user:password@host:6379/0, or rediss:// for TLS")
    return url


class StoreSettings(SettingsGroup):
    """The online feature store."""

    profile: Literal["embedded", "production"] = Field(
        default="embedded", description="Feast profile: `embedded` (SQLite, no service) or `production` (Redis)."
    )
    redis_url: Annotated[SecretStr, AfterValidator(_check_url)] = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis URL, with user, password and TLS if needed: rediss://user:password@host:6379/0?ssl_ca_certs=/path/ca.pem",
    )
    redis_timeout_s: PositiveFloat = Field(default=2.0, description="Time limit of one Redis call.")
    redis_replicas: NonNegativeInt = Field(
        default=0, description="Replicas that must acknowledge a write; with 0, a failover loses writes not yet replicated."
    )
