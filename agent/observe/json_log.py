"""The log: a line or a document for each record, with the trace that it belongs to."""

import json
import logging
from datetime import UTC, datetime

from agent.observe import spans


class Documents(logging.Formatter):
    """Formats a record as a document with time, level, scope and msg, as Istio's own logs are.

    What belongs to a trace has trace_id, span_id and trace_flags too, as OpenTelemetry names them.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the document."""
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "scope": record.name,
            "msg": record.getMessage(),
        }
        if (context := spans.here()) is not None:
            document |= {
                "trace_id": context.trace_id,
                "span_id": context.span_id,
                "trace_flags": f"0{context.sampled:d}",
            }
        if record.exc_info:
            document["stack"] = self.formatException(record.exc_info)
        return json.dumps(document)


class Lines(logging.Formatter):
    """Formats a record as a line: level, message and, where it belongs to a trace, the ids of that."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the base class's name)
        """Return the line."""
        context = spans.here()
        ids = "" if context is None else f" trace_id={context.trace_id} span_id={context.span_id}"
        return f"{record.levelname} {record.message}{ids}"
