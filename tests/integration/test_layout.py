"""The check of layouts reports what it promises, in a real browser."""

from collections.abc import Iterator
from shutil import which

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.layout import find_layout_problems

pytestmark = pytest.mark.integration

WORD = "w" * 60


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page(viewport={"width": 360, "height": 600})
        browser.close()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (f"<p>{WORD}</p>", "the page is"),
        (f'<div style="overflow: auto"><p>{WORD}</p></div>', "wider than its frame: <div> www"),
        (f'<div style="overflow: hidden"><p>{WORD}</p></div>', "text cut off: <p> www"),
        (f'<p style="overflow: hidden; text-overflow: ellipsis">{WORD}</p>', "wider than its frame: <p> www"),
        ('<p style="overflow: hidden; height: 1em">a<br>b<br>c</p>', "higher than its frame: <p> a"),
        ('<p style="position: absolute; left: -1em">a paragraph</p>', "text cut off: <p> a paragraph"),
        ('<svg width="50"><text x="20" y="20">a long label</text></svg>', "text cut off: <text> a long label"),
        ('<div style="width: 5em"><time>2011-12-08 13:50 UTC</time></div>', "time on several lines: <time> 2011"),
        ('<div style="width: 2em; overflow-wrap: anywhere">onboarding</div>', '"onboarding" broken in the middle'),
    ],
)
def test_problem_is_reported(page: Page, body: str, problem: str) -> None:
    page.set_content(body)

    assert any(found.startswith(problem) for found in find_layout_problems(page)), find_layout_problems(page)


@pytest.mark.parametrize(
    "body",
    [
        "<p>a paragraph</p>",
        f'<p style="overflow-wrap: anywhere">{WORD}</p>',
        '<div style="overflow: auto; height: 2em">one<br>two<br>three<br>four</div>',
        '<p style="width: 5em">light-holder</p>',
        f"<details><summary>a summary</summary><p>{WORD}</p></details>",
        f"<p hidden>{WORD}</p>",
        "<time>2011-12-08 13:50 UTC</time>",
    ],
)
def test_readable_page_has_no_problems(page: Page, body: str) -> None:
    page.set_content(body)

    assert find_layout_problems(page) == []
