"""Counters in Prometheus' text format (exposition format 0.0.4), used by the event loop only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PREFIX = "llmstack_hub_"


class Metrics:
    """Counters since the start of the process."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds = 0.0
        self.bytes_sent = 0
        self.open_requests = 0

    def count(self, method: str, status: int, size: int, seconds: float) -> None:
        """Count an answered request; unknown methods count as OTHER."""
        self.requests[method if method in METHODS else "OTHER", status] += 1
        self.bytes_sent += size
        self.seconds += seconds

    def text(self, *, repos: int, reads: int, refreshed: float | None) -> str:
        """Return all metrics; the arguments are the gauges."""
        lines = [f"# HELP {PREFIX}requests_total Requests answered.", f"# TYPE {PREFIX}requests_total counter"]
        lines += [
            f'{PREFIX}requests_total{{method="{method}",status="{status}"}} {count}'
            for (method, status), count in sorted(self.requests.items())
        ]
        lines += _single("request_seconds_total", "counter", "Time spent on requests.", self.seconds)
        lines += _single("sent_bytes_total", "counter", "Bytes sent in response bodies.", self.bytes_sent)
        lines += _single("open_requests", "gauge", "Requests in progress.", self.open_requests)
        lines += _single("open_reads", "gauge", "File transfers in progress.", reads)
        lines += _single("repos", "gauge", "Repos served.", repos)
        lines += _single("refreshed_timestamp_seconds", "gauge", "When the last refresh ended.", refreshed or 0)
        return "\n".join(lines) + "\n"


def _single(name: str, type_: str, description: str, value: float) -> Iterator[str]:
    yield f"# HELP {PREFIX}{name} {description}"
    yield f"# TYPE {PREFIX}{name} {type_}"
    yield f"{PREFIX}{name} {value}"
