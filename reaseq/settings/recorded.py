"""The settings of the system that `reaseq up` started, which other commands use until `reaseq down`."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource, SettingsError

FILE = "running.json"
OWNER_ONLY = 0o600  # there may be secrets in it


class RecordedSettings(PydanticBaseSettingsSource):
    """The settings recorded in the state directory that the sources before this one name; none if nothing is recorded."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: all fields are read at once."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """The settings that differ from the defaults."""
        default = self.settings_cls.model_fields["state_dir"].default
        file = Path(self.current_state.get("state_dir", default)) / FILE
        try:
            return dict(json.loads(file.read_text()))
        except PermissionError:
            raise SettingsError(f"{file} belongs to another user, who ran `reaseq up`") from None
        except OSError:  # there is none
            return {}
        except (ValueError, TypeError):
            raise SettingsError(f"{file} is damaged: delete it, or run `reaseq up` again") from None


def record(settings: BaseModel, state_dir: Path) -> None:
    """Record the settings that differ from the defaults, which only the owner may read."""
    from reaseq.artifacts import write_atomically  # not at the start of every command: only `reaseq up` records

    changed = settings.model_dump(exclude_defaults=True, exclude={"state_dir"})
    write_atomically(state_dir / FILE, json.dumps(changed, default=_to_json).encode(), OWNER_ONLY)


def forget(state_dir: Path) -> None:
    """Delete the record."""
    (state_dir / FILE).unlink(missing_ok=True)


def _to_json(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
