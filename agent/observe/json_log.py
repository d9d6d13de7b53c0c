"""The log as JSON: a document each line."""

import json
import logging
from datetime import UTC, datetime


class Documents(logging.Formatter):
    """Formats a record as a document with time, level, scope and msg, as Istio's own logs are."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the document."""
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "scope": record.name,
            "msg": record.getMessage(),
        }
        if record.exc_info:
            document["stack"] = self.formatException(record.exc_info)
        return json.dumps(document)
