"""Settings of the aggregates that the stream keeps."""

from pydantic import Field, NonNegativeFloat, PositiveInt

from reaseq.settings.group import SettingsGroup


class AggregatesSettings(SettingsGroup):
    """Aggregates of items."""

    emit_interval_s: NonNegativeFloat = Field(
        default=2.0,
        description="Longest time that deltas wait for more, so that the row of a hot item is written once for all of them.",
    )
    batch_limit_records: PositiveInt = Field(
        default=256, description="Maximum number of records of deltas, each of a batch of events, in one batch."
    )
