"""Access control: API keys, host names, the limit on request bodies, and the response to an invalid request."""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader

from reaseq.errors import InvalidSettings
from reaseq.settings import ServiceSettings
from serving.api import json_response
from serving.metrics import REJECTED

LOCALHOST = "localhost"
ANY_HOST = "*"


def check_exposure(settings: ServiceSettings) -> None:
    """Raise InvalidSettings if the service would serve other machines without API keys, and no setting says that it should."""
    local = settings.host == LOCALHOST or (_is_address(settings.host) and ipaddress.ip_address(settings.host).is_loopback)
    if not (local or settings.api_keys or settings.allow_anonymous):
        raise InvalidSettings(
            f"the ranking service would listen on {settings.host!r} without API keys: "
            "set REASEQ_SERVICE__API_KEYS to a JSON list of keys, or REASEQ_SERVICE__ALLOW_ANONYMOUS=true"
        )


class HostCheck:
    """ASGI middleware that rejects requests for a host that this service is not.

    A page of another site may get a name of its own resolved to this service's address (DNS rebinding); its requests then carry
    that name. They cannot carry an address instead, so addresses are allowed.
    """

    def __init__(self, app: Any, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = {LOCALHOST, *(host.lower() for host in hosts)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on if its host is allowed."""
        if scope["type"] == "http" and not self._is_allowed(dict(scope["headers"]).get(b"host", b"").decode("latin-1")):
            REJECTED.labels("host").inc()
            app: Any = json_response({"detail": "this service has another host name: see REASEQ_SERVICE__HOSTS"}, 421)
        else:
            app = self._app
        await app(scope, receive, send)

    def _is_allowed(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
        except ValueError:
            return False
        return ANY_HOST in self._hosts or name in self._hosts or _is_address(name)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def require_api_key(settings: ServiceSettings) -> Callable[..., Awaitable[None]]:
    """A dependency that admits requests with one of the keys in `X-API-Key`, or all requests if no keys are set."""
    keys = [key.get_secret_value() for key in settings.api_keys]

    async def check(given: Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))]) -> None:
        # Compare every key in constant time, so that timing reveals neither which key matched nor how much of it.
        if keys and not any([hmac.compare_digest(key.encode(), (given or "").encode()) for key in keys]):
            REJECTED.labels("key").inc()
            raise HTTPException(401, "a valid X-API-Key header is required")

    return check


class BodyLimit:
    """ASGI middleware that rejects a request body above the limit before it is read into memory."""

    def __init__(self, app: Any, limit_bytes: int) -> None:
        self._app, self._limit_bytes = app, limit_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, counting the bytes of its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = int(dict(scope["headers"]).get(b"content-length", 0))  # the server has checked that it is a number
        received = 0

        async def limited() -> Any:
            nonlocal received
            message = await receive() if announced <= self._limit_bytes else {}
            received += len(message.get("body", b""))
            if max(announced, received) > self._limit_bytes:
                REJECTED.labels("too_large").inc()
                raise HTTPException(413, f"the body is larger than {self._limit_bytes} bytes")
            return message

        await self._app(scope, limited, send)


async def report_invalid(request: Request, error: Exception) -> Response:
    """422 with the place and the kind of each error. Does not repeat the input, which may be large, or have no valid JSON.

    Errors are few, because every list of a request is checked only up to its first error.
    """
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for nothing else
    reported = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()]
    return json_response({"detail": reported}, 422)
