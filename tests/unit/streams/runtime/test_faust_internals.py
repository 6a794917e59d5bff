"""The private names of faust-streaming that the runtime uses exist, with the expected parameters. See docs/adr/0001.

If this test fails after an upgrade of faust-streaming, read the changed code in Faust, then `faust_consumer.py` and
`faust_runtime.py`, and run the fault suite before you change the expectation.
"""

import inspect
from collections.abc import AsyncIterator
from typing import Any

import aiokafka
import faust
import pytest
from aiokafka import TopicPartition
from faust.transport.consumer import Consumer, Fetcher, ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.runtime.faust_consumer import ConsumerThread

COROUTINES = {
    "_drain_messages": ["self", "fetcher"],
    "_getmany": ["self", "active_partitions", "timeout"],
    "_commit": ["self", "offsets"],
    "seek_to_committed": ["self"],
    "seek_wait": ["self", "partitions"],
    "earliest_offsets": ["self", "*partitions"],
    "wait": ["self", "*coros", "timeout"],
    "sleep": ["self", "n"],
}
FUNCTIONS = {"_get_active_partitions": ["self"], "assignment": ["self"], "_new_consumer_thread": ["self"]}
THREAD_FUNCTIONS = {"_create_worker_consumer": ["self", "transport"], "_ensure_consumer": ["self"]}


@pytest.fixture
async def app() -> AsyncIterator[faust.App]:
    app = faust.App("internals", broker="kafka://127.0.0.1:1", web_enabled=False)
    yield app
    if app._consumer:
        app._consumer._thread.thread_loop.close()


def parameters(function: Any) -> list[str]:
    named = inspect.signature(function).parameters.values()
    return [f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name for p in named]


@pytest.mark.parametrize("name", COROUTINES)
def test_consumer_coroutine_keeps_its_parameters(name: str) -> None:
    method = getattr(driver.Consumer, name)

    assert inspect.iscoroutinefunction(method)
    assert parameters(method) == COROUTINES[name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_consumer_function_keeps_its_parameters(name: str) -> None:
    method = getattr(driver.Consumer, name)

    assert not inspect.iscoroutinefunction(method)
    assert parameters(method) == FUNCTIONS[name]


@pytest.mark.parametrize("name", THREAD_FUNCTIONS)
def test_consumer_thread_function_keeps_its_parameters(name: str) -> None:
    method = getattr(driver.AIOKafkaConsumerThread, name)

    assert not inspect.iscoroutinefunction(method)
    assert parameters(method) == THREAD_FUNCTIONS[name]


def test_call_thread_runs_a_coroutine_in_the_thread() -> None:
    assert inspect.iscoroutinefunction(driver.AIOKafkaConsumerThread.call_thread)
    assert parameters(driver.AIOKafkaConsumerThread.call_thread)[:2] == ["self", "fun"]


async def test_worker_consumer_reads_committed_records_only(app: faust.App) -> None:
    consumer: Any = app.consumer
    thread = ConsumerThread(consumer, loop=consumer.loop, beacon=consumer.beacon)

    created = thread._create_worker_consumer(app.transport)

    assert created._isolation_level == "read_committed"
    assert "isolation_level=self._isolation_level" in inspect.getsource(aiokafka.AIOKafkaConsumer.start)
    created._closed = True  # it was never started
    thread.thread_loop.close()


def test_fetcher_calls_drain_messages_with_itself() -> None:
    assert "await consumer._drain_messages(self)" in inspect.getsource(Fetcher)


def test_ensure_tp_converts_a_partition_of_aiokafka() -> None:
    assert ensure_TP(TopicPartition("events", 1)) == TP("events", 1)


async def test_consumer_has_the_state_that_fetching_reads(app: faust.App) -> None:
    assert not app._consumer
    consumer: Any = app.consumer
    assert app._consumer and isinstance(consumer, driver.Consumer)

    assert consumer.flow_active is True
    assert not consumer.can_resume_flow.is_set()
    assert not consumer._stopped.is_set() and not Fetcher(app)._stopped.is_set()
    assert consumer.app is app and consumer.transport.app is app
    assert all(issubclass(error, Exception) for error in consumer.consumer_stopped_errors)


def test_flow_active_is_set_by_stop_flow_and_resume_flow() -> None:
    for name, active in (("stop_flow", "False"), ("resume_flow", "True")):
        assert f"self.flow_active = {active}" in inspect.getsource(getattr(Consumer, name))


async def test_app_has_the_state_that_rebalances_change(app: faust.App) -> None:
    assert (app.consumer_generation_id, app.rebalancing, app.should_stop) == (0, False, False)


async def test_app_creates_its_consumer_from_the_replaced_transport(app: faust.App) -> None:
    consumer = type("Consumer", (driver.Consumer,), {})
    app.transport = type("Transport", (driver.Transport,), {"Consumer": consumer})(app.conf.broker_consumer, app)

    assert type(app.consumer) is consumer
