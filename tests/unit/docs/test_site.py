"""The pages hang together: no link goes nowhere, and no page is left out."""

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr


def test_every_page_has_its_place() -> None:
    def pages(entry: object) -> set[str]:
        match entry:
            case dict():
                return {page for inner in entry.values() for page in pages(inner)}
            case list():
                return {page for inner in entry for page in pages(inner)}
            case _:
                return {str(entry)}

    placed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])

    assert placed == {path.name for path in (ROOT / "docs").glob("*.md")}
