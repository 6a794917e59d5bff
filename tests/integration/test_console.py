"""The console in a real browser on a real system: each page shows what the stores contain, and reports errors."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree, which

import pytest
from axe_playwright_python.sync_playwright import Axe
from msgspec.structs import replace
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pydantic import SecretStr

from demo import ANSWERS, ORDER_LINES, VOCABULARY
from evaluation.datasets.online_retail import read_retail
from features.repository import FeatureRepository
from infra import local, process
from infra.scratch import start_empty
from pipelines.catalog import load_item_table
from pipelines.semantic_ids import SemanticIdPipeline
from reaseq.days import DAY_MS
from reaseq.knowledge.llm.ledger import Entry, Ledger
from reaseq.knowledge.llm.request import Completion, Usage
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.records import EARLIEST_TIME_MS, Claim, Event, History, Inferred, Item, ItemFeatures, ProductKnowledge, UserFeatures
from reaseq.settings import Settings
from streams.delivery.messages import RawRecord
from streams.delivery.topics import EVENTS, ITEMS
from streams.operations.dead_letter_queue import DeadLetterQueue
from streams.operations.rebuild import rebuild
from streams.operations.status import topics_status
from streams.runtime.kafka.producer import Producer
from tests.layout import find_layout_problems
from tests.ranking_service import settings_with_patient_service

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KEY = "the console test's key"
EVENT_COUNT, ITEM_COUNT = 2000, 400
HOSTILE = Item(item_id="a/b?c#d", title="<script>document.title = 'taken over'</script>", event_time_ms=EARLIEST_TIME_MS)
WORD = "Donaudampfschifffahrtsgesellschaftskapitänsmütze"
WORDY = Item(
    item_id="wordy",
    title=f"Hanging heart holder with a title that goes on and on, {WORD * 3}",
    attributes={f"an attribute, {WORD}": f"https://example.org/{'x' * 150}", "color": "white"},
    event_time_ms=EARLIEST_TIME_MS,
)
CLAIMS = (
    Claim("needs", "set_the_mood", 0.95, "llm:a-model", "Hanging heart"),
    Claim("needs", "decorate_home", 0.6, "student:s"),
    Claim("styles", "shabby_chic", 0.8, "llm:a-model"),
    Claim("season", "all_year", 0.31, "zero-shot"),
)
PROVENANCE = dict(zip(CLAIMS, ("demand agent", "student", "attribute agent", "zero-shot"), strict=True))
WORDY_USER = UserFeatures(
    user_id="u" * 128,
    event_time_ms=4 * DAY_MS,
    events_seen=4,
    history=History(
        item_ids=(WORDY.item_id,) * 4,
        types=(1, 1, 2, 3),
        times_ms=tuple(day * DAY_MS for day in (1, 2, 3, 4)),
        event_keys=(1, 2, 3, 4),
    ),
    inferred=Inferred(item_ids=(WORDY.item_id,), confidences=(0.3,), model="m", as_of_ms=2 * DAY_MS, events_seen=2),
)
SETTLE_TIMEOUT_S = 180.0
SCREENSHOTS = os.environ.get("REASEQ_SCREENSHOTS", "")  # folder for a screenshot at the end of each test


@dataclass
class Shop:
    """A system after a replay, with a user and an item to look at."""

    settings: Settings
    user: UserFeatures  # has a history and inferred behaviors
    item: ItemFeatures  # has knowledge, and a language-model call in the ledger

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.service.port}"


@pytest.fixture(scope="module")
def shop(quick_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    state = tmp_path_factory.mktemp("console")
    copytree(quick_demo / "state" / "models", state / "models")
    settings = settings_with_patient_service(state)
    settings.knowledge.recorded_file = ANSWERS
    settings.service.api_keys = [SecretStr(KEY)]
    retail = read_retail(ORDER_LINES)
    events = [event for order in retail.orders for event in order.events][-EVENT_COUNT:]
    bought = {event.item_id for event in events}
    items = [item for item in retail.items if item.item_id in bought][:ITEM_COUNT]
    try:
        rebuild(settings, repository := start_empty(settings))
        worker = local.start_worker(settings, "worker-1")
        local.wait_ready(worker)
        producer = Producer(settings.kafka)
        producer.send([*items, HOSTILE, WORDY])
        producer.send_raw([RawRecord(ITEMS.name, b"broken", b"{", int(time.time() * 1000))])
        _wait(lambda: _count_reasoned(repository) == len({item.item_id for item in items}) + 2, "every item to be reasoned")
        producer.send(events)
        producer.close()
        user_id = max(bought_by := [event.user_id for event in events], key=bought_by.count)
        _wait(lambda: _is_settled(settings) and bool(_read_inferred(repository, user_id)), "the end of the replay")
        _publish_codebook(settings, repository)
        item = repository.read_items([events[-1].item_id, *(item.item_id for item in items)])[_choose_item(items, events)]
        _enter_call(settings, item)
        _write_rare_features(repository)
        local.wait_ready(local.start_ranker(settings, [worker]))
        yield Shop(settings, repository.read_users([user_id])[user_id], item)
    finally:
        local.stop_all(settings)


def _wait(is_done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while not is_done():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.5)


def _count_reasoned(repository: FeatureRepository) -> int:
    return sum(item.status == "reasoned" for page in repository.scan_items() for item in page)


def _is_settled(settings: Settings) -> bool:
    return not any(topic.lag for topic in topics_status(settings))


def _read_inferred(repository: FeatureRepository, user_id: str) -> tuple[str, ...]:
    user = repository.read_users([user_id]).get(user_id)
    return user.inferred.item_ids if user else ()


def _choose_item(items: list[Item], events: list[Event]) -> str:
    """The id of an item that is on sale and was bought."""
    return next(item.item_id for item in items if any(event.item_id == item.item_id for event in events))


def _publish_codebook(settings: Settings, repository: FeatureRepository) -> None:
    pipeline = SemanticIdPipeline(load_item_table(repository), settings.models_dir)
    pipeline.publish(*pipeline.fit(levels=2, codes=16, seed=0))


def _write_rare_features(repository: FeatureRepository) -> None:
    """Write what this shop's workers do not make: claims of a cascade, and inferences that are late, empty or missing."""
    wordy = repository.read_items([WORDY.item_id])[WORDY.item_id]
    knowledge = ProductKnowledge(vocabulary=load_vocabulary(VOCABULARY).version, claims=CLAIMS, profile=WORD * 5)
    repository.write([replace(wordy, knowledge=knowledge, reasoned_again=1)])
    looked_at = replace(WORDY_USER, user_id="looked-at", inferred=Inferred(model="m", as_of_ms=4 * DAY_MS, events_seen=4))
    repository.write([WORDY_USER, looked_at, replace(WORDY_USER, user_id="not-looked-at", inferred=Inferred())])


def _enter_call(settings: Settings, item: ItemFeatures) -> None:
    """Enter a call in the ledger, as a worker with a language model would."""
    completion = Completion('{"reasoning": "It reads like a gift."}', usage=Usage(120, 100, 30, 0.5))
    ledger = Ledger(settings.ledger_file)
    ledger.enter([Entry("f", "demand", "a-model", item.item_id, "", item.content, completion, answered_ms=1)])
    ledger.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, shop: Shop, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A tab with the key. Fails the test if a script error or a violation of the content security policy occurred."""
    context = browser.new_context(base_url=shop.url, viewport={"width": 1200, "height": 900})
    context.add_init_script(f"sessionStorage.setItem('reaseq-key', {KEY!r})")
    tab, errors = context.new_page(), list[str]()
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda line: errors.append(line.text) if "Content Security Policy" in line.text else None)
    yield tab
    if SCREENSHOTS:
        tab.screenshot(path=Path(SCREENSHOTS) / f"{request.node.name}.png", full_page=True)
    context.close()
    assert not errors


def open_page(page: Page, address: str) -> None:
    """Go to a page of the console and wait until it is shown."""
    page.goto(f"/console/#/{address}")
    expect(page.get_by_role("main")).not_to_have_attribute("aria-busy", "true")
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def rows(page: Page, caption: str) -> list[list[str]]:
    """The text of each cell of a table."""
    table_rows = page.get_by_role("table", name=caption).locator("tbody tr").all()
    return [[cell.inner_text() for cell in row.locator("th, td").all()] for row in table_rows]


def bar_widths(page: Page) -> list[float]:
    """The bars of the page's tables, in percent of their cells: first those of kinds, then those of behaviors."""
    tables = [page.get_by_role("table", name=name) for name in ("features of a kind", "one behavior")]
    return [float(bar.get_attribute("width")[:-1]) for of in tables for bar in of.locator("td.bar rect").all()]  # type: ignore[index]


def spaced(name: str) -> str:
    """A name of the vocabulary as the pages show it."""
    return name.replace("_", " ")


def to_datetime(ms: int) -> datetime:
    """A time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def test_stream_page_shows_topics_freshness_dead_letters_and_workers(page: Page, shop: Shop) -> None:
    open_page(page, "stream")

    topics = {row[0]: row for row in rows(page, "Each topic and the consumer group that reads it")}
    assert int(topics["events"][2].replace(",", "")) == EVENT_COUNT and topics["events"][3] == "0"
    assert {row[0] for row in rows(page, "Time from produced to servable (upper bounds, since the workers started)")} >= {
        "onboarding",
        "history",
        "reasoning",
    }
    assert DeadLetterQueue(shop.settings.kafka, 3).counts() == {("onboarding", "malformed_json"): 1}
    assert rows(page, "Records that could not be processed") == [["onboarding", "malformed_json", "1"]]
    assert [row[1] for row in rows(page, "Readiness of each worker")] == ["ready"]
    expect(page.get_by_role("main")).to_contain_text("1 of 1 workers ready, 0 records behind, 1 dead letter")


def test_item_page_shows_knowledge_neighbors_semantic_id_versions_and_cost(page: Page, shop: Shop) -> None:
    item = shop.item
    assert item.knowledge
    open_page(page, f"item/{item.item_id}")

    expect(page.get_by_role("heading", level=1)).to_have_text(item.title)
    main = page.get_by_role("main")
    groups = {section.locator("h3").inner_text(): section for section in main.locator(".claims section").all()}
    assert list(groups) == list(dict.fromkeys(spaced(claim.group) for claim in item.knowledge.claims))
    for name, section in groups.items():
        claimed = [spaced(claim.value) for claim in item.knowledge.claims if spaced(claim.group) == name]
        assert section.locator("strong").all_inner_texts() == claimed
        assert section.locator(".badge").all_inner_texts() == ["recorded"]
    assert main.locator(".claims .confidence").count() == 0, "recorded answers have no confidences"
    for text in (item.knowledge.profile, item.knowledge.vocabulary, item.space_id, item.fingerprint):
        expect(main).to_contain_text(text)
    expect(main.locator("dt", has_text="semantic ID").locator("+ dd")).to_have_text(re.compile(r"^\d+-\d+-\d+$"))
    cosines = [float(row[1]) for row in rows(page, "On sale, most similar in meaning")]
    assert len(cosines) == 10 and cosines == sorted(cosines, reverse=True)
    expect(main).to_contain_text("1 call, 120 tokens in, 30 out, 0.5 s.")
    expect(main).to_contain_text("It reads like a gift.")


def test_claims_name_the_agent_or_reasoner_who_says_so_their_confidence_and_evidence(page: Page, shop: Shop) -> None:
    open_page(page, f"item/{WORDY.item_id}")

    sections = page.get_by_role("main").locator(".claims section")
    for claim in CLAIMS:
        section = sections.filter(has=page.get_by_role("heading", name=spaced(claim.group)))
        entry = section.locator("li", has=page.get_by_text(spaced(claim.value), exact=True))
        expect((entry if claim.group == "needs" else section).locator(".badge")).to_have_text(PROVENANCE[claim])
        expect(entry.locator(".confidence")).to_contain_text(f"{claim.confidence:.2f}")
        expect(entry.locator("mark")).to_have_text([claim.evidence] if claim.evidence else [])
    sources = page.get_by_role("main").locator(".sources li")
    expect(sources).to_have_count(len({claim.reasoner for claim in CLAIMS}))
    expect(sources.first).to_contain_text("2 claims: answers of the agents that the critic let pass (a-model).")


def test_neighbor_links_open_its_page_and_back_returns(page: Page, shop: Shop) -> None:
    open_page(page, f"item/{shop.item.item_id}")
    neighbor = page.get_by_role("table", name="On sale, most similar in meaning").get_by_role("link").first
    title = neighbor.inner_text()
    neighbor.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text(shop.item.title)


def test_user_page_shows_observed_and_inferred_behavior(page: Page, shop: Shop) -> None:
    user = shop.user
    open_page(page, f"user/{user.user_id}")

    behaviors = [row for row in rows(page, "Newest first; what was inferred stands at its time") if len(row) == 3]
    observed = [row for row in behaviors if row[1] == "purchase"]
    assert len(observed) == len(user.history.item_ids)
    assert [row[0] for row in observed] == [f"{to_datetime(ms):%H:%M}" for ms in reversed(user.history.times_ms)]
    inferred = [row for row in behaviors if row[1] == "inferred"]
    assert [row[0].split()[-1] for row in inferred] == [f"{confidence:.2f}" for confidence in user.inferred.confidences]
    assert len(inferred) + len(observed) == len(behaviors)
    expect(page.get_by_role("main")).to_contain_text(f"Model {user.inferred.model} inferred {len(inferred)} behaviors")
    bars = page.get_by_role("img", name=f"{len(inferred)} inferred")
    expect(bars.locator(".type-inferred")).to_have_count(len(inferred))
    expect(bars.locator(".as-of")).to_have_count(1)


def test_inferred_behaviors_stand_between_earlier_and_later_events(page: Page) -> None:
    open_page(page, f"user/{WORDY_USER.user_id}")

    shown = [row[1] for row in rows(page, "Newest first; what was inferred stands at its time") if len(row) == 3]
    assert shown == ["cart", "click", "inferred", "view", "view"]
    expect(page.get_by_role("main")).to_contain_text("2 events arrived after that.")


def test_user_for_whom_nothing_was_inferred_is_not_said_to_have_nothing(page: Page) -> None:
    open_page(page, "user/looked-at")
    expect(page.get_by_role("main")).to_contain_text("Model m inferred no behavior")
    expect(page.get_by_role("main")).not_to_contain_text("othing")
    open_page(page, "user/not-looked-at")
    expect(page.get_by_role("main")).to_contain_text("No behavior model has looked at this user yet.")


def test_stream_page_draws_the_last_hour(page: Page, shop: Shop) -> None:
    open_page(page, "stream")
    for title in ("Rate", "Lag", "Dead letters"):
        chart = page.get_by_role("img", name=f"{title}.")
        expect(chart.locator("path.line").first).to_have_attribute("d", re.compile("^M.*L"))
    expect(page.get_by_role("img", name="Dead letters. onboarding: latest 1, highest 1.")).to_be_visible()
    expect(page.locator("figure", has_text="Rate").get_by_role("listitem")).to_contain_text(
        ["items", "events", "item-features"]
    )


def test_ranking_page_ranks_and_explains(page: Page, shop: Shop) -> None:
    open_page(page, f"user/{shop.user.user_id}")
    page.get_by_role("link", name="Rank for this user").click()

    ranked = page.locator("ol.ranked > li")
    expect(ranked).to_have_count(5)
    expect(page.get_by_role("main")).to_contain_text("by the model, on features read for this request")
    kinds = rows(page, "Log-odds lost if all features of a kind are removed")
    assert {row[0] for row in kinds} >= {"real behaviors", "inferred behaviors", "latent state", "recent popularity"}
    behaviors = rows(page, "Log-odds lost if one behavior is removed; times in UTC")
    assert behaviors and all(
        re.search(r"inferred, confidence 0\.\d\d$|\d{4}-\d\d-\d\d \d\d:\d\d$", row[0]) for row in behaviors
    )
    widths = {float(row[2].replace("−", "-")): width for row, width in zip([*kinds, *behaviors], bar_widths(page), strict=True)}
    largest = max(widths, key=abs)
    assert all(abs(width - 50 * abs(value / largest)) < 0.1 for value, width in widths.items()), "one scale for the page"

    page.get_by_label("Candidates").fill(f"{shop.item.item_id}, no-such-item")
    page.get_by_label("Budget (ms)").fill("0.001")
    page.get_by_role("button", name="Rank").click()
    expect(page.get_by_role("main")).to_contain_text("no time was left for the model (budget_spent)")
    expect(page.get_by_role("main")).to_contain_text("some candidates are not in the item table (unknown_candidates)")
    expect(ranked).to_have_count(2)


def test_models_page_shows_versions_and_spaces(page: Page, shop: Shop) -> None:
    open_page(page, "models")
    main = page.get_by_role("main")
    for kind in ("behavior", "ranker", "semantic-ids"):
        version = (shop.settings.models_dir / kind / "current").read_text()
        expect(main.locator("section", has_text=kind).get_by_text(version, exact=True).first).to_be_visible()
    expect(main).to_contain_text(shop.item.space_id)


def test_item_and_user_pages_without_an_id_suggest_some(page: Page, shop: Shop) -> None:
    open_page(page, "item")
    expect(page.get_by_role("main").locator("li")).to_have_count(12)
    open_page(page, "user")
    expect(page.get_by_role("main").locator("li").first).to_be_visible()
    page.get_by_label("User").fill(shop.user.user_id)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"User {shop.user.user_id}")


def test_erased_user_is_not_among_the_active_users(page: Page, shop: Shop) -> None:
    open_page(page, "user")
    active = page.get_by_role("main").locator("li")
    expect(active.first).to_be_visible()
    user_ids = active.all_inner_texts()
    erased = next(user_id for user_id in user_ids if user_id != shop.user.user_id)
    producer = Producer(shop.settings.kafka)
    producer.send_raw([RawRecord(EVENTS.name, erased.encode(), None, int(time.time() * 1000))])
    producer.close()
    _wait(lambda: _is_settled(shop.settings), "the erasure request")

    page.reload()
    expect(active).to_have_text([user_id for user_id in user_ids if user_id != erased])


def test_unknown_user_is_reported_beside_the_search_form(page: Page) -> None:
    open_page(page, "user/nobody")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
    expect(page.get_by_role("alert")).to_contain_text("the feature store has no such user")
    expect(page.get_by_role("search")).to_be_visible()


def test_item_page_searches_by_words(page: Page, shop: Shop) -> None:
    open_page(page, "item")
    page.get_by_label("Item ID or words").fill(shop.item.title.lower())
    page.keyboard.press("Enter")

    expect(page.get_by_role("heading", level=1)).to_have_text(f"Items like “{shop.item.title.lower()}”")
    expect(page.get_by_role("main")).to_contain_text(f"No item has the id “{shop.item.title.lower()}”.")
    matches = page.get_by_role("table", name="On sale, most similar to these words").locator("tbody th")
    expect(matches).to_have_count(12)
    matches.get_by_role("link", name=shop.item.title, exact=True).first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(shop.item.title)


def test_malformed_address_is_reported(page: Page) -> None:
    open_page(page, "item/50%")
    expect(page.get_by_role("alert")).to_contain_text("URI malformed")
    open_page(page, "rank?user=u&time=tomorrow")
    expect(page.get_by_role("alert")).to_contain_text('"tomorrow" is not a valid time')
    expect(page.get_by_label("User")).to_have_value("u")


def test_same_ranking_can_be_requested_again(page: Page, shop: Shop) -> None:
    open_page(page, f"rank?user={shop.user.user_id}&limit=2")
    with page.expect_response("**/v1/explain") as response_info:
        page.get_by_role("button", name="Rank").click()
    assert response_info.value.ok


def test_stream_page_refreshes_until_paused(page: Page) -> None:
    open_page(page, "stream")
    with page.expect_response("**/v1/stream"):
        pass
    page.get_by_role("button", name="Pause").click()
    page.wait_for_timeout(1000)  # a refresh may be in flight
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.wait_for_timeout(4000)
    assert not requests


def test_hostile_title_is_shown_as_text_and_any_id_has_a_page(page: Page) -> None:
    open_page(page, "item/" + "a%2Fb%3Fc%23d")
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE.title)
    assert "taken over" not in page.title().replace(HOSTILE.title, "")


def test_nothing_is_shown_without_a_valid_key(browser: Browser, shop: Shop) -> None:
    context = browser.new_context(base_url=shop.url)
    page = context.new_page()
    page.goto("/")
    dialog = page.get_by_role("dialog", name="API key required")
    expect(dialog).to_be_visible()
    assert page.get_by_role("table").count() == 0
    page.get_by_label("API key", exact=True).fill("a guess")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("rejected that key")
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_contain_text("the service requires an API key")
    page.reload()
    page.get_by_label("API key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Stream")
    context.close()


ADDRESSES = ["stream", "item/{item}", "user/{user}", "rank?user={user}", "models", "item/nothing"]
FURTHER_ADDRESSES = [
    "item",
    "item/a%2Fb%3Fc%23d",
    f"item/{WORDY.item_id}",
    "user",
    f"user/{WORDY_USER.user_id}",
    "user/nobody",
    "rank",
    f"rank?user={WORDY_USER.user_id}&items={WORDY.item_id},no-such-item",
    "rank?user={user}&budget=0.001",
]


@pytest.mark.parametrize("width", [360, 1100, 1920])
@pytest.mark.parametrize("address", [*ADDRESSES, *FURTHER_ADDRESSES])
def test_nothing_is_cut_off(page: Page, shop: Shop, address: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, address.format(item=shop.item.item_id, user=shop.user.user_id))

    assert find_layout_problems(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("address", [*ADDRESSES, f"item/{WORDY.item_id}", f"user/{WORDY_USER.user_id}"])
def test_page_has_no_accessibility_violations(browser: Browser, shop: Shop, address: str, scheme: str) -> None:
    context = browser.new_context(base_url=shop.url, color_scheme=scheme)  # type: ignore[arg-type]
    context.add_init_script(f"sessionStorage.setItem('reaseq-key', {KEY!r})")
    page = context.new_page()
    open_page(page, address.format(item=shop.item.item_id, user=shop.user.user_id))
    for width in (360, 1200):  # rows of tables are stacked, and not
        page.set_viewport_size({"width": width, "height": 900})
        report = Axe().run(page)
        assert report.violations_count == 0, report.generate_report()
    if SCREENSHOTS and scheme == "dark":
        page.screenshot(path=Path(SCREENSHOTS) / f"dark-{address.split('/')[0].split('?')[0]}.png", full_page=True)
    context.close()


def test_keyboard_reaches_every_page_and_focus_moves_to_its_heading(page: Page) -> None:
    open_page(page, "stream")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Item")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Item")
    expect(page.get_by_role("heading", level=1)).to_be_focused()


@contextmanager
def suspend(shop: Shop, name: str) -> Iterator[None]:
    """Suspend a process of the system."""
    suspended = next(running for running in process.running(shop.settings.run_dir) if running.name == name)
    os.kill(suspended.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(suspended.pid, signal.SIGCONT)


def test_unavailable_store_is_reported_and_the_ranking_degrades(page: Page, shop: Shop) -> None:
    with suspend(shop, "redis"):
        open_page(page, f"item/{shop.item.item_id}")
        expect(page.get_by_role("alert")).to_contain_text("production online store")
        open_page(page, f"rank?user={shop.user.user_id}")
        reason = "the feature store does not answer (store_unavailable)"
        expect(page.get_by_role("main")).to_contain_text(reason)
        expect(page.locator("ol.ranked > li")).to_have_count(5)
    _wait(lambda: bool(FeatureRepository(shop.settings).read_items([shop.item.item_id])), "Redis")
    open_page(page, f"user/{shop.user.user_id}")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"User {shop.user.user_id}")


def test_stream_page_reports_unavailable_brokers_and_recovers(page: Page, shop: Shop) -> None:
    time.sleep(3)  # lets the cached health expire
    with suspend(shop, "kafka"):
        open_page(page, "stream")
        expect(page.get_by_role("alert")).to_contain_text("the brokers at")
        page.get_by_role("link", name="User").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("User")
        open_page(page, "stream")
    expect(page.get_by_role("table", name="Each topic and the consumer group")).to_be_visible()
    expect(page.locator("p.alert")).to_have_count(0)


def test_stopped_service_is_reported(page: Page, shop: Shop) -> None:
    open_page(page, "models")
    process.stop(shop.settings.run_dir, "ranker")
    page.get_by_role("link", name="User").click()
    expect(page.get_by_role("alert")).to_contain_text("the service does not answer")
