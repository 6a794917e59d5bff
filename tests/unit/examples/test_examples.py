"""The examples import what they use, say how to run them, and stay short."""

from pathlib import Path
from runpy import run_path

import pytest

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_imports_and_says_how_to_run_it(path: Path) -> None:
    names = run_path(str(path))  # not as __main__: nothing is sent

    assert f"python examples/{path.name}" in names["__doc__"]
    assert callable(names["main"])
    assert len(path.read_text().splitlines()) <= 40
