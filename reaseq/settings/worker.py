"""Settings of the stream workers."""

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from reaseq.settings.group import SettingsGroup


class WorkerSettings(SettingsGroup):
    """A stream worker."""

    metrics_host: str = Field(default="127.0.0.1", description="Address of the health and metrics endpoints.")
    metrics_port: int = Field(
        default=0, ge=0, le=65_535, description="Port of the health and metrics endpoints; 0 picks a free one."
    )
    threads: PositiveInt = Field(default=1, description="Torch threads.")
    reconcile_interval_s: PositiveFloat = Field(
        default=60.0, description="Interval between comparisons of sampled topic records with the store."
    )
    reconcile_records: NonNegativeInt = Field(default=200, description="Records of each feature topic in one such comparison.")
    recall_interval_s: NonNegativeFloat = Field(
        default=300.0, description="Pause between two scans of the store for users whose inference is due."
    )
    recall_users_per_s: PositiveFloat = Field(default=200.0, description="Users per second that such a scan reads.")
    stall_s: PositiveFloat = Field(
        default=60.0, description="Time without a commit, despite lag, after which the worker is not ready."
    )
    remembered_entities: NonNegativeInt = Field(
        default=50_000,
        description="Items and users whose last written version is remembered, to notice when the store has lost it.",
    )
    held_limit_records: PositiveInt = Field(
        default=10_000,
        description="Records that a stage holds in memory for shards of the store that do not answer, while others go on.",
    )
    drain_s: NonNegativeFloat = Field(
        default=5.0,
        description="Time for batches in flight to finish and commit at shutdown and before partitions are revoked.",
    )
