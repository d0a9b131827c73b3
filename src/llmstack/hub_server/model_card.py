"""The model card of a repo that the hub serves."""

from __future__ import annotations

from typing import Any

from llmstack.errors import LlmstackError
from llmstack.hf.front_matter import README, parse_card
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.repos import Revision

MAX_README = 1024 * 1024


def card_of(repo_index: RepoIndex, revision: Revision) -> dict[str, Any]:
    """Return a repo's card; empty if it is missing, invalid or cannot be read now."""
    try:
        data = repo_index.read(revision, README, MAX_README)
    except LlmstackError:
        return {}
    return parse_card((data or b"").decode(errors="replace"))
