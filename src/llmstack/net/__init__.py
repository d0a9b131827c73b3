"""HTTP as both the hub and the registries need it: one client, one retry policy, one resumable read."""

from llmstack.net.backoff import PATIENT, Backoff, Patience
from llmstack.net.cancel import Cancel, Cancelled
from llmstack.net.client import Client, ConnectionLostError, Response, display_url, read_limited, read_whole
from llmstack.net.resume import read_resuming

__all__ = [
    "PATIENT",
    "Backoff",
    "Cancel",
    "Cancelled",
    "Client",
    "ConnectionLostError",
    "Patience",
    "Response",
    "display_url",
    "read_limited",
    "read_resuming",
    "read_whole",
]
