"""Settings of the guards against bad messages."""

from pydantic import Field, NonNegativeFloat, PositiveInt

from reaseq.settings.group import SettingsGroup


class GuardSettings(SettingsGroup):
    """Limits on the event times of messages and on replays of dead letters."""

    future_limit_s: NonNegativeFloat = Field(default=300.0, description="How far in the future an event time may be.")
    quarantine_attempts: PositiveInt = Field(
        default=3, description="Failures after which a dead letter is quarantined: replayed only on explicit request."
    )
