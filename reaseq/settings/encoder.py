"""Settings of the text encoder."""

from pathlib import Path

from pydantic import Field, PositiveInt

from reaseq.settings.group import SettingsGroup


class EncoderSettings(SettingsGroup):
    """The text encoder."""

    model: str = Field(default="", description="sentence-transformers name or directory; the bundled MiniLM if empty.")
    revision: str = Field(default="", description="Commit of the model on the hub; required if `model` is a name.")
    alignment: Path | None = Field(default=None, description="Directory of a published alignment head; none if empty.")
    batch_texts: PositiveInt = Field(  # measured: 2 ms per text in bulk, and a single text takes 25 ms rather than 80
        default=4, description="Texts in one forward pass."
    )
    limit_tokens: PositiveInt = Field(default=128, description="Tokens of a text that are encoded; the rest is cut off.")
