"""Carry large language models to places the internet does not reach."""

from typing import TYPE_CHECKING

from llmstack.errors import (
    IntegrityError,
    InternalError,
    LlmstackError,
    NotAuthorizedError,
    NotFoundError,
    UnavailableError,
    UsageError,
)

if TYPE_CHECKING:
    from llmstack.bundles.copying import CopyResult
    from llmstack.bundles.known_blobs import Inventory
    from llmstack.bundles.load import LoadResult
    from llmstack.bundles.save import SaveResult
    from llmstack.extraction.extract import ExtractResult
    from llmstack.ferrying.ferry import FerryResult
    from llmstack.functions import (
        copy,
        extract,
        ferry,
        inspect,
        inventory,
        list_images,
        load,
        prune,
        save,
        verify,
    )
    from llmstack.inspection import ImageDetails, ListedImage, VerifyResult
    from llmstack.lists.wish_list import RepoRequest
    from llmstack.reporting.callback import ProgressEvent
    from llmstack.session import Session
    from llmstack.signing.sign import SignResult

__version__ = "0.2.0"

__all__ = [
    "CopyResult",
    "ExtractResult",
    "FerryResult",
    "ImageDetails",
    "IntegrityError",
    "InternalError",
    "Inventory",
    "ListedImage",
    "LlmstackError",
    "LoadResult",
    "NotAuthorizedError",
    "NotFoundError",
    "ProgressEvent",
    "PruneResult",
    "RepoRequest",
    "SaveResult",
    "Session",
    "SignResult",
    "UnavailableError",
    "UsageError",
    "VerifyResult",
    "__version__",
    "copy",
    "extract",
    "ferry",
    "inspect",
    "inventory",
    "list_images",
    "load",
    "prune",
    "save",
    "verify",
]

_MODULES = {
    "CopyResult": "llmstack.bundles.copying",
    "ExtractResult": "llmstack.extraction.extract",
    "FerryResult": "llmstack.ferrying.ferry",
    "ImageDetails": "llmstack.inspection",
    "Inventory": "llmstack.bundles.known_blobs",
    "ListedImage": "llmstack.inspection",
    "LoadResult": "llmstack.bundles.load",
    "ProgressEvent": "llmstack.reporting.callback",
    "PruneResult": "llmstack.bundles.prune",
    "RepoRequest": "llmstack.lists.wish_list",
    "SaveResult": "llmstack.bundles.save",
    "Session": "llmstack.session",
    "SignResult": "llmstack.signing.sign",
    "VerifyResult": "llmstack.inspection",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: the command line must not pay for what it does not use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_MODULES.get(name, "llmstack.functions")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
