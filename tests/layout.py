"""Finds what a reader of a page would miss or stumble over: text that is cut off, overflow, and words broken in the middle."""

from pathlib import Path

from playwright.sync_api import Page

FIND_PROBLEMS = Path(__file__).with_suffix(".js").read_text()


def find_layout_problems(page: Page) -> list[str]:
    """One line for each problem; empty if everything can be read at the page's present width."""
    problems: list[str] = page.evaluate(FIND_PROBLEMS)
    return problems
