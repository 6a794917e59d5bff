"""Programs that `make services` builds with Go. In CI, all of them are required."""

import os
from shutil import which

import pytest


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip a test if one of the programs is missing, and say how to get it."""
    missing = not all(map(which, programs)) and not os.environ.get("CI")
    return pytest.mark.skipif(missing, reason=f"needs {' and '.join(programs)}: install Go and run `make services`")
