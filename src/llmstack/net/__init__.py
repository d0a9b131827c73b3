"""HTTP as both the hub and the registries need it: one client, one retry policy, one resumable read."""

from llmstack.net.cancel import Cancel, Cancelled
from llmstack.net.http_client import Client, ConnectionLostError, Response, display_url, read_limited, read_whole
from llmstack.net.resume import read_resuming
from llmstack.net.retry import DEFAULT_RETRY_POLICY, Backoff, RetryPolicy

__all__ = [
    "DEFAULT_RETRY_POLICY",
    "Backoff",
    "Cancel",
    "Cancelled",
    "Client",
    "ConnectionLostError",
    "Response",
    "RetryPolicy",
    "display_url",
    "read_limited",
    "read_resuming",
    "read_whole",
]
