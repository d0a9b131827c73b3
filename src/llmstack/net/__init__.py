"""HTTP for the Hugging Face Hub and for registries: one client, one retry policy, resumed reads."""

from llmstack.net.cancel import Cancel, Cancelled
from llmstack.net.http_body import Response, read_limited, read_with_retry
from llmstack.net.http_client import Client
from llmstack.net.network_errors import ConnectionLostError
from llmstack.net.resume import read_resuming
from llmstack.net.retry import DEFAULT_RETRY_POLICY, Backoff, RetryPolicy
from llmstack.net.urls import display_url

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
    "read_with_retry",
]
