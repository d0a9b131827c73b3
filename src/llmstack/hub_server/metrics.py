"""What the hub counts, in Prometheus' text format (exposition format 0.0.4). Kept by the event loop alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PREFIX = "llmstack_hub_"


class Metrics:
    """Counters since the start."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds = 0.0
        self.bytes_sent = 0
        self.open_requests = 0

    def count(self, method: str, status: int, size: int, seconds: float) -> None:
        """Count a request that was answered; methods that nobody has heard of count as one."""
        self.requests[method if method in METHODS else "OTHER", status] += 1
        self.bytes_sent += size
        self.seconds += seconds

    def text(self, *, repos: int, reads: int, refreshed: float | None) -> str:
        """Return all metrics; the arguments are gauges that others keep."""
        lines = [f"# HELP {PREFIX}requests_total Requests answered.", f"# TYPE {PREFIX}requests_total counter"]
        lines += [
            f'{PREFIX}requests_total{{method="{method}",status="{status}"}} {count}'
            for (method, status), count in sorted(self.requests.items())
        ]
        lines += _single("request_seconds_total", "counter", "Time spent on requests.", self.seconds)
        lines += _single("sent_bytes_total", "counter", "Bytes of answers.", self.bytes_sent)
        lines += _single("open_requests", "gauge", "Requests being answered.", self.open_requests)
        lines += _single("open_reads", "gauge", "Transfers of files being read.", reads)
        lines += _single("repos", "gauge", "Repos that are there.", repos)
        lines += _single("refreshed_timestamp_seconds", "gauge", "When the last listing ended.", refreshed or 0)
        return "\n".join(lines) + "\n"


def _single(name: str, kind: str, text: str, value: float) -> Iterator[str]:
    yield f"# HELP {PREFIX}{name} {text}"
    yield f"# TYPE {PREFIX}{name} {kind}"
    yield f"{PREFIX}{name} {value}"
