"""Logs: one JSON object a line, or coloured text on a terminal."""

from __future__ import annotations

import logging
import sys

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def set_up(service: str, level: str) -> FilteringBoundLogger:
    """Configure logging for the process and return its logger; the standard library's log goes the same way."""
    number = LEVELS.get(level.lower(), 20)
    encoder = msgspec.json.Encoder(enc_hook=str)

    def to_json(record: object, **_: object) -> str:
        return encoder.encode(record).decode()

    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(serializer=to_json)
    )
    errors: list[structlog.types.Processor] = [] if sys.stderr.isatty() else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, *errors, last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[
        structlog.stdlib.ProcessorFormatter.remove_processors_meta, *errors, last,
    ])  # fmt: skip
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.INFO))
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    return structlog.get_logger(service=service)
