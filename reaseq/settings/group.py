"""The base of all groups of settings, and the checks of values that several of them share."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class SettingsGroup(BaseModel):
    """A group of settings. An unknown name is an error, also in a group that is given as one JSON object."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def _check_directory(path: Path) -> Path:
    try:
        nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        raise ValueError(f"is no directory that can be written to: {error.strerror}") from None
    if not nearest.is_dir():
        raise ValueError(f"{nearest} is a file, not a directory")
    return path


Directory = Annotated[Path, AfterValidator(_check_directory)]
Share = Annotated[float, Field(ge=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]
