"""Loads the settings, with errors for people: one line that names the variable, and never its value."""

import os
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from reaseq.errors import InvalidSettings
from reaseq.settings.names import JSON_EXAMPLES, find_invalid_json, find_unknown, name_of
from reaseq.settings.root import Settings

HINTS = {f"{kind.__name__}_type": f"must be JSON, such as {example}" for kind, example in JSON_EXAMPLES.items()}
OWN_ERROR = "value_error"  # a validator of ours raised it


def load_settings() -> Settings:
    """The settings. Raises InvalidSettings if one is invalid, or if a variable or secret file named REASEQ_… is no setting."""
    secrets = os.environ.get("REASEQ_SECRETS_DIR")
    try:
        settings = Settings()
        files = [file.name for file in Path(secrets).iterdir()] if secrets else []
    except ValidationError as error:
        raise InvalidSettings("; ".join(map(_describe, error.errors(include_input=False)))) from None
    except SettingsError as error:
        wrong = find_invalid_json(os.environ, Settings) or [f"the settings cannot be read: {error}"]
        raise InvalidSettings("; ".join(wrong)) from None
    if unknown := find_unknown([*os.environ, *files], Settings):
        raise InvalidSettings("; ".join(unknown))
    return settings


def _describe(error: ErrorDetails) -> str:
    message = str(error["ctx"]["error"]) if error["type"] == OWN_ERROR else error["msg"]
    return f"{name_of(error['loc'])}: {HINTS.get(error['type'], message[:1].lower() + message[1:])}"
