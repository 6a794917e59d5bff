"""Traces from an input to its features, across the topics: W3C trace context in the records' headers.

Whoever produces a record decides whether it is traced. One with a `traceparent` header that is sampled gets a span in each
stage that it goes through, and what comes of it bears that span on. Spans go where OpenTelemetry's own variables say
(`OTEL_EXPORTER_OTLP_ENDPOINT`); without them the context is passed on and nothing is collected.
"""

import os
import time
from collections.abc import Collection, Sequence

from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streams.contract.messages import Headers, Message, RawRecord, header

HEADER = "traceparent"
_W3C = TraceContextTextMapPropagator()


def export_traces(service: str) -> None:
    """Send this process's spans to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names, if it names one."""
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=Resource.create({"service.name": service}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)


class Spans:
    """The spans of a batch in a stage: one for each entity that a traced record is about, linked to any further ones."""

    def __init__(self, stage: str, pairs: Sequence[tuple[RawRecord, Message]]) -> None:
        contexts: dict[str, list[SpanContext]] = {}
        for raw, message in pairs:
            if context := _context(raw.headers):
                contexts.setdefault(message.key, []).append(context)
        self._spans = {key: _start(stage, key, of) for key, of in contexts.items()}

    def headers(self, entity: str) -> Headers:
        """What a record about the entity bears on."""
        span = self._spans.get(entity)
        return ((HEADER, _traceparent(span)),) if span else ()

    def end(self, servable: Collection[str]) -> None:
        """The batch has been delivered; the features of these entities are servable now."""
        for entity, span in self._spans.items():
            span.set_attribute("reaseq.servable", entity in servable)
            span.end()


def trace_id(headers: Headers) -> str:
    """The trace that a record belongs to, as logs name it; empty where it is not traced."""
    context = _context(headers)
    return format_trace_id(context.trace_id) if context else ""


def _start(stage: str, entity: str, contexts: Sequence[SpanContext]) -> Span:
    first, *others = contexts
    return trace.get_tracer("reaseq").start_span(
        stage,
        context=trace.set_span_in_context(NonRecordingSpan(first)),
        links=[Link(context) for context in others],
        start_time=time.time_ns(),
        attributes={"reaseq.stage": stage, "reaseq.entity": entity},
    )


def _context(headers: Headers) -> SpanContext | None:
    value = header(headers, HEADER)
    if value is None:
        return None
    carrier = {HEADER: value.decode(errors="replace")}
    context = trace.get_current_span(_W3C.extract(carrier)).get_span_context()
    return context if context.is_valid and context.trace_flags.sampled else None


def _traceparent(span: Span) -> bytes:
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span))
    return carrier[HEADER].encode()
