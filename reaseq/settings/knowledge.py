"""Settings of explicit reasoning."""

from pathlib import Path

from pydantic import Field, PositiveInt

from reaseq.settings.group import Directory, SettingsGroup, Share
from reaseq.settings.llm import LlmSettings


class KnowledgeSettings(SettingsGroup):
    """Explicit reasoning: the vocabulary, the reasoners, and how many items a worker reasons about at once.

    A worker reasons about `items_per_batch` × `batches_in_flight` items at once.
    """

    vocabulary: str = Field(default="giftware-3", description="Vocabulary: a bundled version or the path of a .yaml file.")
    recorded_file: Path | None = Field(
        default=None, description="Parquet file of recorded answers of a language model; none if empty."
    )
    ledger_dir: Directory | None = Field(
        default=None,
        description="Directory of the ledger on a local disk (SQLite, not on a network); the state directory if empty.",
    )
    cascade_threshold: Share = Field(
        default=1.0,
        description="Skip an agent if the student expects to make at least this share of its claims; 1 never skips.",
    )
    items_per_batch: PositiveInt = Field(default=16, description="Items in one batch of the reasoning stage.")
    batches_in_flight: PositiveInt = Field(
        default=8, description="Batches of the reasoning stage that a worker processes at once."
    )
    llm: LlmSettings = Field(default=LlmSettings(), description="The language model that the agents call.")
