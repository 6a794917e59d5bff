"""Settings of the online feature store."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, SecretStr, ValidationInfo

from reaseq.settings.group import SettingsGroup

# A comma separates two URLs only before a scheme: a password may contain one.
_SEPARATOR = re.compile(r",\s*(?=rediss?://)")


def split_redis_urls(urls: SecretStr) -> list[str]:
    """The URLs of the shards, in order; a store that is not sharded has one."""
    return _SEPARATOR.split(urls.get_secret_value())


def _check_urls(urls: SecretStr) -> SecretStr:
    for url in split_redis_urls(urls):
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("is not of the form redis://user:password@host:6379/0, or rediss:// for TLS")
    if len(set(_databases(urls))) < len(_databases(urls)):
        raise ValueError("names a database twice: each shard needs one of its own")
    return urls


def _databases(urls: SecretStr) -> list[tuple[str | None, int | None, str]]:
    parts = [urlsplit(url) for url in split_redis_urls(urls)]
    return [(part.hostname, part.port, part.path) for part in parts]


def _check_replaced(urls: SecretStr | None, others: ValidationInfo) -> SecretStr | None:
    if urls and "redis_url" in others.data and set(_databases(urls)) & set(_databases(others.data["redis_url"])):
        raise ValueError("names a database of REASEQ_STORE__REDIS_URL, which is to replace it")
    return urls


RedisUrls = Annotated[SecretStr, AfterValidator(_check_urls)]


class StoreSettings(SettingsGroup):
    """The online feature store."""

    profile: Literal["embedded", "production"] = Field(
        default="embedded", description="Feast profile: `embedded` (SQLite, no service) or `production` (Redis)."
    )
    redis_url: RedisUrls = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis URL, with user, password and TLS if needed: "
        "rediss://user:password@host:6379/0?ssl_ca_certs=/path/ca.pem. "
        "For a store of several shards: their URLs in order, comma-separated.",
    )
    replaced_redis_url: Annotated[RedisUrls | None, AfterValidator(_check_replaced)] = Field(
        default=None,
        description="Redis URL, or URLs, of the store that this one replaces: the rebuild of this one closes it to writers.",
    )
    redis_timeout_s: PositiveFloat = Field(default=2.0, description="Time limit of one Redis call.")
    redis_replicas: NonNegativeInt = Field(
        default=0,
        description="Replicas of each Redis that must acknowledge a write; with 0, a failover loses writes not yet replicated.",
    )

    @property
    def redis_urls(self) -> list[str]:
        """The URLs of the shards."""
        return split_redis_urls(self.redis_url)
