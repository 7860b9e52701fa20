"""Traces: W3C trace context in message headers, spans by OpenTelemetry, nothing at all while the ratio is 0.

A story begins with a watch event (``begin``), which decides by the ratio whether it is traced; every later step
(``span``) continues the trace that its message's ``traceparent`` names. A story that is not traced costs one lookup.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Tracer

_tracer: Tracer | None = None
_close: Any = None


def set_up(service: str, ratio: float, path: str) -> None:
    """Start tracing for the process; with a ratio of 0 nothing is imported."""
    global _tracer, _close
    if ratio <= 0:
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    class JsonLines(SpanExporter):
        """Finished spans as JSON lines; several processes may append to one file."""

        def export(self, spans: Any) -> SpanExportResult:
            lines = "".join(json.dumps(_plain(service, span)) + "\n" for span in spans)
            with Path(path).open("a") as out:
                out.write(lines)
            return SpanExportResult.SUCCESS

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(ratio)), resource=Resource.create({"service.name": service})
    )
    if path:
        provider.add_span_processor(BatchSpanProcessor(JsonLines(), schedule_delay_millis=500))
    _tracer = provider.get_tracer("shoal")
    _close = provider.shutdown


def _plain(service: str, span: ReadableSpan) -> dict[str, Any]:
    context, parent = span.get_span_context(), span.parent
    return {
        "service": service,
        "name": span.name,
        "trace": f"{context.trace_id:032x}" if context else "",
        "span": f"{context.span_id:016x}" if context else "",
        "parent": f"{parent.span_id:016x}" if parent else "",
        "links": [f"{link.context.trace_id:032x}" for link in span.links],
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "attributes": dict(span.attributes or {}),
    }


def shut_down() -> None:
    """Write out what is left."""
    if _close:
        _close()


@contextmanager
def span(name: str, traceparent: str = "", *, root: bool = False, **attributes: str | int | float) -> Iterator[str]:
    """A span around the block; gives the ``traceparent`` for messages sent in it ("" when not traced).

    It continues ``traceparent``; without one it begins a trace only if ``root``.
    """
    if _tracer is None or not (traceparent or root):
        yield traceparent
        return
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    propagator = TraceContextTextMapPropagator()
    parent = propagator.extract({"traceparent": traceparent}) if traceparent else None
    with _tracer.start_as_current_span(name, context=parent, attributes=dict(attributes)):
        carrier: dict[str, str] = {}
        propagator.inject(carrier)
        yield carrier.get("traceparent", "")
