"""The committed reference pages are what the code generates."""

import pytest

from docs.reference import generate


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    return generate.build_pages()


@pytest.mark.parametrize("name", ["settings.md", "commands.md", "api.md"])
def test_reference_page_matches_the_code(generated: dict[str, str], name: str) -> None:
    committed = (generate.FOLDER / name).read_text()

    assert committed == generated[name], "the page is out of date: run `make docs`"


def test_no_setting_is_left_without_a_description(generated: dict[str, str]) -> None:
    bare = [line for line in generated["settings.md"].splitlines() if line.startswith("| `REASEQ_") and line.endswith("|  |")]

    assert not bare
