"""Limits of the HTTP servers."""

from pydantic import Field, PositiveFloat, PositiveInt

from reaseq.settings.group import SettingsGroup


class HttpSettings(SettingsGroup):
    """The HTTP servers of the ranking service and of the workers: what one client may hold, and for how long."""

    connections_limit: PositiveInt = Field(
        default=512, description="Open connections; a further one closes the one that has waited longest for its request."
    )
    head_limit_bytes: PositiveInt = Field(default=64 * 1024, description="Largest request line with headers.")
    request_timeout_s: PositiveFloat = Field(
        default=10.0, description="Time from a connection, or the previous response, to the last byte of a request."
    )
    response_timeout_s: PositiveFloat = Field(
        default=60.0, description="Time from the last byte of a request until the client has received the response."
    )
