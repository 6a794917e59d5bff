"""What `make services` builds where Go is; CI may lack none of it."""

import os
from shutil import which

import pytest


def needs(*programs: str) -> pytest.MarkDecorator:
    """Leaves a test out where one of the programs is missing, and says how to get it."""
    missing = not all(map(which, programs)) and not os.environ.get("CI")
    return pytest.mark.skipif(missing, reason=f"needs {' and '.join(programs)}: `make services` builds them where Go is")
