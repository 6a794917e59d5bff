"""The documentation site: every link leads somewhere, and every page is in the navigation."""

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def test_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr


def test_every_page_is_in_the_navigation() -> None:
    def list_pages(entry: object) -> set[str]:
        match entry:
            case dict():
                return {page for inner in entry.values() for page in list_pages(inner)}
            case list():
                return {page for inner in entry for page in list_pages(inner)}
            case _:
                return {str(entry)}

    listed = list_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])

    docs = ROOT / "docs"
    assert listed == {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
