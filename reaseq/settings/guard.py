"""Settings of the guards against bad messages."""

from pydantic import BaseModel, Field


class GuardSettings(BaseModel):
    """Limits on the event times of messages and on replays of dead letters."""

    future_limit_s: float = Field(default=300.0, description="How far in the future an event time may be.")
    quarantine_attempts: int = Field(
        default=3, description="Failures after which a dead letter is quarantined: replayed only on explicit request."
    )
