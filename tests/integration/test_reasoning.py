"""The agents before a real vLLM server on the CPU, fed by a real broker, writing to a real Redis.

The model is tiny and random: its words mean nothing, its JSON is held to the grammar, and its tokens cost what tokens cost.
The server is killed in the middle of the work and started again.
"""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import JsonValue

from demo import ANSWERS, VOCABULARY
from features.repository import FeatureRepository
from infra import local, process
from infra.grafana.dashboards import REASONING
from infra.prometheus.server import start_prometheus
from infra.scratch import settings_on_free_ports, start_empty
from infra.vllm.server import python_with_vllm, start_vllm, wait_vllm
from infra.vllm.tiny_model import make_tiny_model
from pipelines.knowledge import build_agents, to_reasoning_item
from reaseq.knowledge.agents.answers import parse
from reaseq.knowledge.agents.pending import export_batch, import_batch
from reaseq.knowledge.llm.ledger import Ledger
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.records import Event, Item, UserFeatures
from reaseq.settings import Settings
from streams.contract.topics import ITEM_FEATURES
from streams.operations import status
from streams.operations.dead_letter_queue import DeadLetterQueue
from streams.operations.rebuild import rebuild
from streams.runtime.kafka_clients import Producer
from tests.integration.curves import wait_for_data

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# A random model left to itself repeats one token for ever: it is held to a list, which a diffusion model could not be.
PHRASE: JsonValue = {"type": "string", "minLength": 4, "maxLength": 12}
PHRASES: JsonValue = {"type": "array", "minItems": 2, "maxItems": 4, "items": PHRASE}
TITLES = 200
BEFORE_THE_KILL = 60
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Counts:
    """Tokens, as the server or the ledger counts them."""

    prompt: int
    cached: int
    generated: int


@dataclass
class Reasoned:
    """What the run left behind, and what was measured on the way."""

    settings: Settings
    items: list[Item]
    server: process.Process
    first_life: tuple[Counts, Counts]  # server, ledger; with nothing under way
    second_life: tuple[Counts, Counts]
    stages_while_down: Counter[str]


def titles() -> list[str]:
    return list(dict.fromkeys(pq.read_table(ANSWERS, columns=["description"])["description"].to_pylist()))[:TITLES]


@pytest.fixture(scope="module")
def reasoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reasoned]:
    settings = settings_on_free_ports(tmp_path_factory.mktemp("reasoning"))
    port = process.free_port()
    llm = settings.knowledge.llm
    llm.base_url, llm.model = f"http://127.0.0.1:{port}/v1", "tiny"
    llm.reasoning_limit_chars, llm.breaker_open_s, llm.answer_limit_tokens = 60, 1.0, 768
    llm.connect_timeout_s = 30.0  # a machine that does everything at once may keep a process waiting for seconds
    words = settings.behavior.words
    words.llm.base_url, words.llm.model, words.llm.answer_limit_tokens = llm.base_url, llm.model, 200
    words.llm.temperature, words.llm.extra_body = 1.0, {"structured_outputs": {"json": PHRASES}}
    words.least_cosine = 0.0  # what a random model says is like nothing
    state, run_dir = settings.state_dir, settings.run_dir
    try:
        server, _ = start_vllm(state, run_dir, "tiny", port, wait=False)
        rebuild(settings, start_empty(settings))
        workers = [local.start_worker(settings, "worker-1", "stream"), local.start_worker(settings, "reasoner", "reasoning")]
        for worker in workers:
            local.wait_ready(worker)
        wait_vllm(server)
        items = [Item(item_id=f"i{place}", title=title, event_time_ms=1) for place, title in enumerate(titles())]
        producer = Producer(settings.kafka)

        producer.send(items[:BEFORE_THE_KILL])
        wait_until_reasoned(settings, BEFORE_THE_KILL)
        first_life = (server_counts(server), ledger_counts(settings, 0))

        calls = calls_in_ledger(settings)
        producer.send(items[BEFORE_THE_KILL:])
        producer.close()
        wait_for(lambda: calls_in_ledger(settings) > calls + 150, "the second half to be under way")
        os.killpg(server.pid, signal.SIGKILL)
        time.sleep(5.0)
        stages_while_down = stages(settings)
        killed_ms = int(time.time() * 1000)
        assert workers[1].alive
        server, _ = start_vllm(state, run_dir, "tiny", port)
        wait_until_reasoned(settings, TITLES)
        second_life = (server_counts(server), ledger_counts(settings, killed_ms))
        yield Reasoned(settings, items, server, first_life, second_life, stages_while_down)
    finally:
        local.stop_all(settings)


def test_every_item_is_reasoned_about_once_and_none_is_lost(reasoned: Reasoned) -> None:
    records = FeatureRepository(reasoned.settings).read_items([item.item_id for item in reasoned.items])

    assert len(records) == TITLES
    assert {record.status for record in records.values()} == {"reasoned"}
    assert {record.reasoned_again for record in records.values()} == {0}
    assert not DeadLetterQueue(reasoned.settings.kafka, 3).counts()


def test_every_curve_of_the_dashboard_has_something_to_show(reasoned: Reasoned) -> None:
    reasoner = process.find(reasoned.settings.run_dir, "reasoner")
    assert reasoner
    jobs = {"reaseq-reasoner": [f"127.0.0.1:{reasoner.ports[0]}"]}
    prometheus = start_prometheus(reasoned.settings.run_dir, process.free_port(), jobs, interval="1s")

    wait_for_data(prometheus, REASONING)


def test_while_the_server_was_down_its_items_were_servable_by_their_text(reasoned: Reasoned) -> None:
    assert reasoned.stages_while_down["text"] > 0
    assert reasoned.stages_while_down.total() == TITLES


def test_no_agent_was_asked_more_than_twice_about_an_item(reasoned: Reasoned) -> None:
    """Once, and once more where the critic sent a claim back; the ledger holds no call twice by its key."""
    for record in FeatureRepository(reasoned.settings).read_items([item.item_id for item in reasoned.items]).values():
        asked = Counter(entry.agent for entry in Ledger(reasoned.settings.ledger_file).entries(record.content))
        assert set(asked) >= {"demand", "attribute", "relation", "critic"}
        assert max(asked.values()) <= 2 and asked["critic"] == asked["synthesis"] == 1


def test_every_answer_fits_its_schema_or_was_refused_with_a_reason(reasoned: Reasoned) -> None:
    agents = build_agents(reasoned.settings)
    outcomes: Counter[str] = Counter()
    for item in reasoned.items:
        for entry in agents.ledger.entries(to_reasoning_item(item).content.hash):
            answer, reason = parse(agents.pipeline.agents[entry.agent].answer, entry.completion.text)
            outcomes[entry.completion.rejected or reason or "accepted"] += 1
            assert answer or reason

    assert outcomes["accepted"] >= 0.95 * outcomes.total()
    assert set(outcomes) <= {"accepted", "truncated", "malformed_json", "invalid_answer"}


def test_claims_are_in_the_vocabulary_and_rest_on_words_that_are_there(reasoned: Reasoned) -> None:
    vocabulary = load_vocabulary(VOCABULARY)
    speakers: Counter[str] = Counter()
    for record in FeatureRepository(reasoned.settings).read_items([item.item_id for item in reasoned.items]).values():
        assert record.knowledge
        for claim in record.knowledge.claims:
            speakers[claim.reasoner] += 1
            assert (claim.group, claim.value) in vocabulary
            assert claim.evidence.casefold() in record.title.casefold()

    assert speakers["llm:tiny"] > 0.9 * speakers.total()


def test_the_ledger_counts_the_tokens_that_the_server_counts(reasoned: Reasoned) -> None:
    assert reasoned.first_life[0] == reasoned.first_life[1]
    assert reasoned.second_life[0] == reasoned.second_life[1]


def test_most_of_each_prompt_came_from_the_servers_prefix_cache(reasoned: Reasoned) -> None:
    for server, _ in (reasoned.first_life, reasoned.second_life):
        assert server.cached > 0.7 * server.prompt


def test_behaviors_are_inferred_in_words_by_the_same_server_and_grounded_to_items(reasoned: Reasoned) -> None:
    users = {
        f"u{user}": [
            Event(event_id=f"{user}-{n}", user_id=f"u{user}", item_id=f"i{user * 10 + n}", type="view", event_time_ms=100 + n)
            for n in range(user + 1)
        ]
        for user in range(6)
    }
    producer = Producer(reasoned.settings.kafka)
    producer.send([event for events in users.values() for event in events])
    producer.close()
    repository = FeatureRepository(reasoned.settings)

    def inferred() -> list[UserFeatures]:
        known = repository.read_users(list(users))
        return [known[user] for user in users if user in known and known[user].inferred.events_seen == len(users[user])]

    wait_for(lambda: len(inferred()) == len(users), "every user's behaviors to be inferred")
    for user in inferred():
        assert user.inferred.model.startswith("words:tiny@")
        assert user.inferred.item_ids and not set(user.inferred.item_ids) & set(user.history.item_ids)
        assert set(user.inferred.item_ids) <= {item.item_id for item in reasoned.items}
        assert user.inferred.as_of_ms == user.history.times_ms[-1]
    assert not DeadLetterQueue(reasoned.settings.kafka, 3).counts()


def test_a_full_replay_asks_the_model_nothing(reasoned: Reasoned) -> None:
    before, calls = server_counts(reasoned.server), calls_in_ledger(reasoned.settings)
    relisted = [Item(item_id=item.item_id, title=item.title, event_time_ms=2, price=9.5) for item in reasoned.items]
    producer = Producer(reasoned.settings.kafka)
    producer.send(reasoned.items)
    producer.send(relisted)
    producer.send([record for record in FeatureRepository(reasoned.settings).read_items(["i1", "i2"]).values()])
    producer.close()
    wait_for(lambda: event_times(reasoned.settings) == {2}, "the replay to be served")
    wait_for(lambda: is_settled(reasoned.settings), "the replay to be processed")

    assert server_counts(reasoned.server) == before
    assert calls_in_ledger(reasoned.settings) == calls
    record = FeatureRepository(reasoned.settings).read_items(["i7"])["i7"]
    assert (record.price, record.status, record.event_time_ms) == (9.5, "reasoned", 2)


async def test_a_batch_file_runs_through_vllm_as_it_is(reasoned: Reasoned, tmp_path: Path) -> None:
    settings = reasoned.settings.model_copy(update={"state_dir": tmp_path}, deep=True)
    agents = build_agents(settings)
    items = [to_reasoning_item(item) for item in reasoned.items[:6]]
    requests, answers = tmp_path / "round-1.jsonl", tmp_path / "answers-1.jsonl"
    counts = await export_batch(agents, items, requests)
    assert counts == {"demand": 6, "attribute": 6, "relation": 6}

    python, on_cpu = python_with_vllm(settings.state_dir)
    assert on_cpu
    run_batch(python, requests, answers, make_tiny_model(reasoned.settings.state_dir / "vllm" / "models" / "tiny"))

    outcomes = await import_batch(agents, items, answers)
    assert outcomes["accepted"] >= 16 and outcomes.total() == 18
    following = await export_batch(agents, items, tmp_path / "round-2.jsonl")
    assert following["critic"] >= 5 and set(following) == {"critic"}


def run_batch(python: str, requests: Path, answers: Path, model: Path) -> None:
    command = [python, "-m", "vllm.entrypoints.openai.run_batch", "-i", str(requests), "-o", str(answers)]
    command += ["--model", str(model), "--served-model-name", "tiny", "--max-model-len", "16384", "--enforce-eager"]
    command += ["--dtype", "float32", "--kv-cache-memory-bytes", "64M"]
    command += ["--structured-outputs-config", json.dumps({"backend": "guidance", "disable_any_whitespace": True})]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "TORCHDYNAMO_DISABLE": "1"}
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert run.returncode == 0, run.stderr[-3000:]


def server_counts(server: process.Process) -> Counts:
    scrape = process.http_get(f"http://127.0.0.1:{server.ports[0]}/metrics", timeout_s=10.0)
    assert scrape
    totals = {
        sample.name: int(sample.value)
        for family in text_string_to_metric_families(scrape)
        for sample in family.samples
        if "source" not in sample.labels
    }
    names = ("vllm:prompt_tokens_total", "vllm:prompt_tokens_cached_total", "vllm:generation_tokens_total")
    return Counts(*(totals[name] for name in names))


def ledger_counts(settings: Settings, since_ms: int) -> Counts:
    query = "SELECT sum(tokens_in), sum(tokens_cached), sum(tokens_out) FROM calls WHERE answered_ms >= ?"
    return Counts(*Ledger(settings.ledger_file)._db.execute(query, (since_ms,)).fetchone())


def calls_in_ledger(settings: Settings) -> int:
    return sum(cost.calls for cost in Ledger(settings.ledger_file).costs("agent"))


def stages(settings: Settings) -> Counter[str]:
    ids = [f"i{place}" for place in range(TITLES)]
    return Counter(record.status for record in FeatureRepository(settings).read_items(ids).values())


def event_times(settings: Settings) -> set[int]:
    ids = [f"i{place}" for place in range(TITLES)]
    return {record.event_time_ms for record in FeatureRepository(settings).read_items(ids).values()}


def is_settled(settings: Settings) -> bool:
    return all(
        topic.lag == 0
        for topic in status.topics_status(settings)
        if topic.group.endswith("reasoning") or topic.name != ITEM_FEATURES.name
    )


def wait_until_reasoned(settings: Settings, count: int) -> None:
    wait_for(lambda: stages(settings)["reasoned"] == count, f"{count} items to be reasoned about")


def wait_for(check, what: str) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < deadline, f"waited {TIMEOUT_S:.0f} s for {what}"
        time.sleep(0.5)
