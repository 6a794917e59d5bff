"""Traces an input through the topics to its features: W3C trace context in record headers.

The producer decides which records are sampled. A sampled record (`traceparent` header) gets a span in each stage, and records
derived from it carry that span. OpenTelemetry's own variables configure the export (`OTEL_EXPORTER_OTLP_ENDPOINT`); if they are
not set, the context is passed on and no span is exported.
"""

import os
import time
from collections.abc import Collection, Sequence

from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streams.delivery.messages import Headers, Message, RawRecord, get_header

HEADER = "traceparent"
_W3C = TraceContextTextMapPropagator()


def export_traces(service: str) -> None:
    """Export this process's spans to OTEL_EXPORTER_OTLP_ENDPOINT, if it is set."""
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=Resource.create({"service.name": service}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)


class Spans:
    """The spans of one batch in one stage: one per entity with sampled records, a child of the first, linked to the rest."""

    def __init__(self, stage: str, decoded: Sequence[tuple[RawRecord, Message]]) -> None:
        contexts: dict[str, list[SpanContext]] = {}
        for raw, message in decoded:
            if raw.headers and (context := _sampled_context(raw.headers)):
                contexts.setdefault(message.key, []).append(context)
        self._spans = {entity: _start_span(stage, entity, parents) for entity, parents in contexts.items()}

    def headers(self, entity: str) -> Headers:
        """The trace headers for records about the entity."""
        span = self._spans.get(entity)
        return ((HEADER, _traceparent(span)),) if span else ()

    def end(self, servable: Collection[str]) -> None:
        """End all spans. `servable`: the entities whose features are servable now."""
        for entity, span in self._spans.items():
            span.set_attribute("reaseq.servable", entity in servable)
            span.end()


def trace_id(headers: Headers) -> str:
    """The trace id of a record in hexadecimal; empty if the record is not sampled."""
    context = _sampled_context(headers)
    return format_trace_id(context.trace_id) if context else ""


def _start_span(stage: str, entity: str, parents: Sequence[SpanContext]) -> Span:
    first, *others = parents
    return trace.get_tracer("reaseq").start_span(
        stage,
        context=trace.set_span_in_context(NonRecordingSpan(first)),
        links=[Link(context) for context in others],
        start_time=time.time_ns(),
        attributes={"reaseq.stage": stage, "reaseq.entity": entity},
    )


def _sampled_context(headers: Headers) -> SpanContext | None:
    value = get_header(headers, HEADER)
    if value is None:
        return None
    carrier = {HEADER: value.decode(errors="replace")}
    context = trace.get_current_span(_W3C.extract(carrier)).get_span_context()
    return context if context.is_valid and context.trace_flags.sampled else None


def _traceparent(span: Span) -> bytes:
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span))
    return carrier[HEADER].encode()
