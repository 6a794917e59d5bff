"""The LLM agents with a real vLLM server on the CPU, a real broker and a real Redis.

The model is tiny and random: its text means nothing, but the grammar constrains its JSON and the server counts its tokens. The
server is killed while requests are in flight and started again.
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
from reaseq.knowledge.agents.answers import UnusableAnswer
from reaseq.knowledge.agents.pending import export_batch, import_batch
from reaseq.knowledge.llm.ledger import Ledger
from reaseq.knowledge.vocabulary import load_vocabulary
from reaseq.records import Event, Item, UserFeatures
from reaseq.settings import Settings
from streams.delivery.topics import ITEM_FEATURES
from streams.operations import status
from streams.operations.dead_letter_queue import DeadLetterQueue
from streams.operations.rebuild import rebuild
from streams.runtime.kafka.producer import Producer
from tests.integration.curves import wait_for_data

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# Unconstrained, the random model repeats one token, so its output is constrained to a list. No diffusion model supports that.
PHRASE: JsonValue = {"type": "string", "minLength": 4, "maxLength": 12}
PHRASES: JsonValue = {"type": "array", "minItems": 2, "maxItems": 4, "items": PHRASE}
TITLES = 100
LISTED_MS = 1_700_000_000_000
TITLES_BEFORE_KILL = 40
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Counts:
    """Tokens, as counted by the server or by the ledger."""

    prompt: int
    cached: int
    generated: int


@dataclass
class Run:
    """State and measurements of the run."""

    settings: Settings
    items: list[Item]
    server: process.Process
    before_kill: tuple[Counts, Counts]  # server, ledger; while no call is in flight
    after_restart: tuple[Counts, Counts]
    statuses_while_down: Counter[str]


def read_titles() -> list[str]:
    return list(dict.fromkeys(pq.read_table(ANSWERS, columns=["description"])["description"].to_pylist()))[:TITLES]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    settings = settings_on_free_ports(tmp_path_factory.mktemp("reasoning"))
    port = process.free_port()
    llm = settings.knowledge.llm
    llm.base_url, llm.model = f"http://127.0.0.1:{port}/v1", "tiny"
    llm.reasoning_limit_chars, llm.breaker_open_s, llm.answer_limit_tokens = 60, 1.0, 768
    llm.connect_timeout_s = 30.0  # a fully loaded machine may stall a process for seconds
    text_diffusion = settings.behavior.text_diffusion
    text_diffusion.llm.base_url, text_diffusion.llm.model, text_diffusion.llm.answer_limit_tokens = llm.base_url, llm.model, 200
    text_diffusion.llm.temperature, text_diffusion.llm.extra_body = 1.0, {"structured_outputs": {"json": PHRASES}}
    text_diffusion.least_cosine = 0.0  # a random model's phrases are close to no item
    state, run_dir = settings.state_dir, settings.run_dir
    try:
        server, _ = start_vllm(state, run_dir, "tiny", port, wait=False)
        rebuild(settings, start_empty(settings))
        workers = [local.start_worker(settings, "worker-1", "stream"), local.start_worker(settings, "reasoner", "reasoning")]
        for worker in workers:
            local.wait_ready(worker)
        wait_vllm(server)
        items = [Item(item_id=f"i{number}", title=title, event_time_ms=LISTED_MS) for number, title in enumerate(read_titles())]
        producer = Producer(settings.kafka)

        producer.send(items[:TITLES_BEFORE_KILL])
        wait_until_reasoned(settings, TITLES_BEFORE_KILL)
        before_kill = (read_server_counts(server), read_ledger_counts(settings, 0))

        calls = count_ledger_calls(settings)
        producer.send(items[TITLES_BEFORE_KILL:])
        producer.close()
        wait_for(lambda: count_ledger_calls(settings) > calls + 80, "the second half to be in flight")
        os.killpg(server.pid, signal.SIGKILL)
        time.sleep(5.0)
        statuses_while_down = count_statuses(settings)
        killed_ms = int(time.time() * 1000)
        assert workers[1].alive
        server, _ = start_vllm(state, run_dir, "tiny", port)
        wait_until_reasoned(settings, TITLES)
        after_restart = (read_server_counts(server), read_ledger_counts(settings, killed_ms))
        yield Run(settings, items, server, before_kill, after_restart, statuses_while_down)
    finally:
        local.stop_all(settings)


def test_every_item_is_reasoned_about_exactly_once(run: Run) -> None:
    records = FeatureRepository(run.settings).read_items([item.item_id for item in run.items])

    assert len(records) == TITLES
    assert {record.status for record in records.values()} == {"reasoned"}
    assert {record.reasoned_again for record in records.values()} == {0}
    assert not DeadLetterQueue(run.settings.kafka, 3).counts()


def test_every_dashboard_query_returns_data(run: Run) -> None:
    reasoner = process.find(run.settings.run_dir, "reasoner")
    assert reasoner
    jobs = {"reaseq-reasoner": [f"127.0.0.1:{reasoner.ports[0]}"]}
    prometheus = start_prometheus(run.settings.run_dir, process.free_port(), jobs, interval="1s")

    wait_for_data(prometheus, REASONING)


def test_items_are_servable_by_text_while_the_server_is_down(run: Run) -> None:
    assert run.statuses_while_down["text"] > 0
    assert run.statuses_while_down.total() == TITLES


def test_agents_are_called_once_and_again_only_after_an_unusable_answer(run: Run) -> None:
    """The critic reviews twice: the drafts, then what is new. The ledger's key prevents duplicates."""
    for record in FeatureRepository(run.settings).read_items([item.item_id for item in run.items]).values():
        calls = Counter(entry.agent for entry in Ledger(run.settings.ledger_file).entries(record.content))
        assert set(calls) >= {"demand", "attribute", "relation", "critic"}
        assert max(calls.values()) <= 4 and max(calls[agent] for agent in calls.keys() - {"critic"}) <= 2


def test_every_answer_fits_its_schema_or_is_rejected_with_a_reason(run: Run) -> None:
    agents = build_agents(run.settings)
    outcomes: Counter[str] = Counter()
    for item in run.items:
        for entry in agents.ledger.entries(to_reasoning_item(item).content.hash):
            reason = entry.completion.rejected
            if not reason:
                try:
                    agents.pipeline.agents[entry.agent].read(entry.completion.text)
                except UnusableAnswer as unusable:
                    reason = unusable.reason
            outcomes[reason or "accepted"] += 1

    assert outcomes["accepted"] >= 0.95 * outcomes.total()
    assert set(outcomes) <= {"accepted", "truncated", "malformed_json", "invalid_answer"}


def test_claims_are_in_the_vocabulary_with_evidence_in_the_title(run: Run) -> None:
    vocabulary = load_vocabulary(VOCABULARY)
    provenance: Counter[str] = Counter()
    for record in FeatureRepository(run.settings).read_items([item.item_id for item in run.items]).values():
        assert record.knowledge
        for claim in record.knowledge.claims:
            provenance[claim.reasoner] += 1
            assert (claim.group, claim.value) in vocabulary
            assert claim.evidence.casefold() in record.title.casefold()

    assert provenance["llm:tiny"] > 0.9 * provenance.total()


def test_ledger_and_server_count_the_same_tokens(run: Run) -> None:
    assert run.before_kill[0] == run.before_kill[1]
    assert run.after_restart[0] == run.after_restart[1]


def test_most_prompt_tokens_come_from_the_prefix_cache(run: Run) -> None:
    for server, _ in (run.before_kill, run.after_restart):
        assert server.cached > 0.7 * server.prompt


def test_behaviors_inferred_as_text_are_grounded_to_items(run: Run) -> None:
    users = {
        f"u{user}": [
            Event(
                event_id=f"{user}-{n}",
                user_id=f"u{user}",
                item_id=f"i{user * 10 + n}",
                type="view",
                event_time_ms=LISTED_MS + n,
            )
            for n in range(user + 1)
        ]
        for user in range(6)
    }
    producer = Producer(run.settings.kafka)
    producer.send([event for events in users.values() for event in events])
    producer.close()
    repository = FeatureRepository(run.settings)

    def read_inferred() -> list[UserFeatures]:
        known = repository.read_users(list(users))
        return [known[user] for user in users if user in known and known[user].inferred.events_seen == len(users[user])]

    wait_for(lambda: len(read_inferred()) == len(users), "every user's behaviors to be inferred")
    for user in read_inferred():
        assert user.inferred.model.startswith("words:tiny@")
        assert user.inferred.item_ids and not set(user.inferred.item_ids) & set(user.history.item_ids)
        assert set(user.inferred.item_ids) <= {item.item_id for item in run.items}
        assert user.inferred.as_of_ms == user.history.times_ms[-1]
    assert not DeadLetterQueue(run.settings.kafka, 3).counts()


def test_full_replay_makes_no_calls(run: Run) -> None:
    before, calls = read_server_counts(run.server), count_ledger_calls(run.settings)
    relisted = [Item(item_id=item.item_id, title=item.title, event_time_ms=LISTED_MS + 1, price=9.5) for item in run.items]
    producer = Producer(run.settings.kafka)
    producer.send(run.items)
    producer.send(relisted)
    producer.send([record for record in FeatureRepository(run.settings).read_items(["i1", "i2"]).values()])
    producer.close()
    wait_for(lambda: read_event_times(run.settings) == {LISTED_MS + 1}, "the replay to be served")
    wait_for(lambda: is_settled(run.settings), "the replay to be processed")

    assert read_server_counts(run.server) == before
    assert count_ledger_calls(run.settings) == calls
    record = FeatureRepository(run.settings).read_items(["i7"])["i7"]
    assert (record.price, record.status, record.event_time_ms) == (9.5, "reasoned", 2)


async def test_vllm_accepts_an_exported_batch_file(run: Run, tmp_path: Path) -> None:
    settings = run.settings.model_copy(update={"state_dir": tmp_path}, deep=True)
    agents = build_agents(settings)
    items = [to_reasoning_item(item) for item in run.items[:6]]
    requests, answers = tmp_path / "round-1.jsonl", tmp_path / "answers-1.jsonl"
    counts = await export_batch(agents, items, requests)
    assert counts.requests == {"demand": 6, "attribute": 6, "relation": 6}

    python, on_cpu = python_with_vllm(settings.state_dir)
    assert on_cpu
    run_batch(python, requests, answers, make_tiny_model(run.settings.state_dir / "vllm" / "models" / "tiny"))

    outcomes = (await import_batch(agents, items, answers)).outcomes
    assert outcomes["accepted"] >= 16 and outcomes.total() == 18
    following = (await export_batch(agents, items, tmp_path / "round-2.jsonl")).requests
    assert following["critic"] >= 4 and set(following) <= {"demand", "attribute", "relation", "critic"}


def run_batch(python: str, requests: Path, answers: Path, model: Path) -> None:
    command = [python, "-m", "vllm.entrypoints.openai.run_batch", "-i", str(requests), "-o", str(answers)]
    command += ["--model", str(model), "--served-model-name", "tiny", "--max-model-len", "16384", "--enforce-eager"]
    command += ["--dtype", "float32", "--kv-cache-memory-bytes", "64M"]
    command += ["--structured-outputs-config", json.dumps({"backend": "guidance", "disable_any_whitespace": True})]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "TORCHDYNAMO_DISABLE": "1"}
    finished = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]


def read_server_counts(server: process.Process) -> Counts:
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


def read_ledger_counts(settings: Settings, since_ms: int) -> Counts:
    query = "SELECT sum(tokens_in), sum(tokens_cached), sum(tokens_out) FROM calls WHERE answered_ms >= ?"
    return Counts(*Ledger(settings.ledger_file)._db.execute(query, (since_ms,)).fetchone())


def count_ledger_calls(settings: Settings) -> int:
    return sum(cost.calls for cost in Ledger(settings.ledger_file).costs("agent"))


def count_statuses(settings: Settings) -> Counter[str]:
    ids = [f"i{number}" for number in range(TITLES)]
    return Counter(record.status for record in FeatureRepository(settings).read_items(ids).values())


def read_event_times(settings: Settings) -> set[int]:
    ids = [f"i{number}" for number in range(TITLES)]
    return {record.event_time_ms for record in FeatureRepository(settings).read_items(ids).values()}


def is_settled(settings: Settings) -> bool:
    return all(
        topic.lag == 0
        for topic in status.topics_status(settings)
        if topic.group.endswith("reasoning") or topic.name != ITEM_FEATURES.name
    )


def wait_until_reasoned(settings: Settings, count: int) -> None:
    wait_for(lambda: count_statuses(settings)["reasoned"] == count, f"{count} items to be reasoned about")


def wait_for(check, what: str) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < deadline, f"waited {TIMEOUT_S:.0f} s for {what}"
        time.sleep(0.5)
