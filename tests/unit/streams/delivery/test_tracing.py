"""Trace propagation: from an input record through a stage to the records derived from it."""

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from streams.delivery.messages import RawRecord, get_header
from streams.delivery.tracing import HEADER
from tests.fakes.delivery import CountEvents, Journal, build_delivery, event_record

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{SPAN}-01".encode(), f"00-{TRACE}-{SPAN}-00".encode()


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans that a collector would receive."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def traced(record: RawRecord, traceparent: bytes) -> RawRecord:
    return record._replace(headers=(*record.headers, (HEADER, traceparent)))


def delivered(*records: RawRecord) -> Journal:
    journal = Journal()
    asyncio.run(build_delivery(CountEvents(), journal).handle(records))
    return journal


def ids(span: ReadableSpan) -> tuple[str, str]:
    context, parent = span.get_span_context(), span.parent
    assert context and parent
    return f"{context.trace_id:032x}", f"{parent.span_id:016x}"


def test_span_is_a_child_of_its_input_and_the_parent_of_derived_records(exported: InMemorySpanExporter) -> None:
    [record] = delivered(traced(event_record("1"), SAMPLED)).produced

    [span] = exported.get_finished_spans()
    context = span.get_span_context()
    assert (span.name, ids(span)) == ("count", (TRACE, SPAN))
    assert dict(span.attributes or {}) == {"reaseq.stage": "count", "reaseq.entity": "u", "reaseq.servable": True}
    assert context and get_header(record.headers, HEADER) == f"00-{TRACE}-{context.span_id:016x}-01".encode()


def test_records_of_one_entity_share_a_span_with_links(exported: InMemorySpanExporter) -> None:
    other = f"00-{'a' * 32}-{'b' * 16}-01".encode()

    delivered(traced(event_record("1"), SAMPLED), traced(event_record("2"), other), event_record("3"))

    [span] = exported.get_finished_spans()
    assert ids(span)[0] == TRACE
    assert [f"{link.context.trace_id:032x}" for link in span.links] == ["a" * 32]


@pytest.mark.parametrize("traceparent", [NOT_SAMPLED, b"garbage", b"\xff", b"00-0-0-01", b""])
def test_unsampled_or_invalid_trace_context_is_ignored(exported: InMemorySpanExporter, traceparent: bytes) -> None:
    [record] = delivered(traced(event_record("1"), traceparent)).produced

    assert not exported.get_finished_spans()
    assert get_header(record.headers, HEADER) is None


def test_context_is_passed_on_without_a_collector() -> None:
    [record] = delivered(traced(event_record("1"), SAMPLED)).produced

    assert get_header(record.headers, HEADER) == SAMPLED


def test_dead_letter_is_logged_with_its_id_and_trace() -> None:
    broken = RawRecord("events", b"u", b"{", 1, ((HEADER, SAMPLED),), 2, 7)

    with capture_logs() as logs:
        delivered(broken, broken._replace(headers=(), offset=8))

    logged = [(line["id"], line["trace_id"]) for line in logs if line["event"] == "dead_letter"]
    assert logged == [("events/2/7/count", TRACE), ("events/2/8/count", "")]
