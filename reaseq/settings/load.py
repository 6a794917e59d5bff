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
HINTS["model_type"] = HINTS["dict_type"]
OWN_ERROR = "value_error"  # a validator of ours raised it


def load_settings() -> Settings:
    """The settings. Raises InvalidSettings if one is invalid, or if a variable or secret file named REASEQ_… is no setting."""
    files = _read_secret_files()
    if unknown := find_unknown([*os.environ, *files], Settings):
        raise InvalidSettings("; ".join(unknown))
    try:
        return Settings()
    except ValidationError as error:
        raise InvalidSettings("; ".join(map(_describe, error.errors(include_input=False)))) from None
    except SettingsError as error:
        wrong = find_invalid_json(files | os.environ, Settings) or [f"the settings cannot be read: {error}"]
        raise InvalidSettings("; ".join(wrong)) from None


def _read_secret_files() -> dict[str, str]:
    """The text of each secret file by its name."""
    folder = os.environ.get("REASEQ_SECRETS_DIR")
    if not folder:
        return {}
    try:
        files = [file for file in sorted(Path(folder).iterdir()) if file.is_file()]
    except OSError as error:
        raise InvalidSettings(f"REASEQ_SECRETS_DIR: {folder} cannot be read: {error.strerror}") from None
    texts = {}
    for file in files:
        try:
            texts[file.name] = file.read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise InvalidSettings(f"the secret file {file} cannot be read, or is not UTF-8") from None
    return texts


def _describe(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return find_unknown([name_of(error["loc"])], Settings)[0]
    message = str(error["ctx"]["error"]) if error["type"] == OWN_ERROR else error["msg"]
    return f"{name_of(error['loc'])}: {HINTS.get(error['type'], message[:1].lower() + message[1:])}"
