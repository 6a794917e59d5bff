"""The state directory of a finished demo."""

import shutil
from pathlib import Path


def make_copy(quick_demo: Path, folder: Path) -> Path:
    """Copy the demo's state, since commands publish models into it."""
    shutil.copytree(quick_demo / "out" / "state", folder)
    shutil.copytree(quick_demo / "state" / "models", folder / "models")
    return folder
