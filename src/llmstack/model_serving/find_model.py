"""Read which files a model has: from the file index of its image, or from a hub. No file of the model is read."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llmstack.carried_image.file_index import ROOT
from llmstack.carried_image.image import OpenedImage, has_base
from llmstack.carried_image.image_in_engine import ImageInEngine
from llmstack.carried_image.image_location import EngineLocation, Location, RegistryLocation, locate
from llmstack.carried_image.naming import Namespace, parse_repo
from llmstack.carried_image.open_location import open_requested
from llmstack.errors import LlmstackError, NotFoundError, UsageError
from llmstack.model_serving.serve_plan import ServedModel
from llmstack.net import Client
from llmstack.oci.reference import Reference, is_registry
from llmstack.oci.repository import Registries
from llmstack.settings import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from llmstack.hf.hub_client import HubClient


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model, and where its image is, both None if a hub has it.

    `image` is the opened image; the engine can pull it, load it, or has it already.
    """

    model: ServedModel
    location: Location | None = None
    image: OpenedImage | None = None


def find_image(
    argument: str,
    source: str | None,
    namespace: Namespace,
    registries: Registries,
    note: Callable[[str], None],
    *,
    prefer_engine: bool = True,
) -> FoundModel:
    """Find the image of `REPO_ID[@REVISION]|IMAGE`; with `prefer_engine`, in the local Docker Engine first.

    Raises NotFoundError, UsageError for a dataset, and what opening an image raises.
    """
    try:
        request = locate(argument, source, "model", namespace)
        with open_requested(request, registries, note, prefer_engine=prefer_engine) as opened:
            location = request.location
            if isinstance(opened, ImageInEngine):
                location = EngineLocation(opened.engine_image.image)
            image = None
            if isinstance(location, RegistryLocation | EngineLocation):
                image = location.name.removeprefix("docker://")
            return FoundModel(_model(opened, request.repo_id, image), location, opened)
    except NotFoundError as error:
        if _is_dataset(argument, source, namespace, registries):
            raise UsageError(f"{argument}: is a dataset, which no server can serve") from error
        raise


def _is_dataset(argument: str, source: str | None, namespace: Namespace, registries: Registries) -> bool:
    """Tell whether a repo id is that of a carried dataset."""
    with contextlib.suppress(LlmstackError):
        request = locate(argument, source, "dataset", namespace)
        if request.repo_id is not None:
            with open_requested(request, registries, lambda _: None, prefer_engine=False) as opened:
                return opened.index is not None
    return False


def find_in_hub(argument: str, url: str, client: Client) -> FoundModel:
    """Find `REPO_ID[@REVISION]` on the hub at `url`.

    Raises UsageError, NotFoundError, NotAuthorizedError, UnavailableError.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
        raise UsageError("--hub: must be a URL such as http://hub.local:8080, without a password")
    repo_id, revision = parse_repo(argument, "model", "datasets cannot be served", url)
    from llmstack.hf.hub_client import HubClient

    hub = HubClient(client, url)
    try:
        info = hub.info(repo_id, "model", revision)
    except NotFoundError as error:
        if _hub_has_dataset(hub, repo_id, revision):
            raise UsageError(f"{argument}: is a dataset, which no server can serve") from error
        error.hint = "check the spelling: the hub's pages list its models"
        raise
    files = hub.snapshot(info).files
    return FoundModel(ServedModel(repo_id, revision, files, hub=url.rstrip("/")))


def _hub_has_dataset(hub: HubClient, repo_id: str, revision: str) -> bool:
    try:
        hub.info(repo_id, "dataset", revision)
    except LlmstackError:
        return False
    return True


def server_namespaces(location: Location | None, configured: Namespace) -> list[Namespace]:
    """Return the namespaces that may have the image of a server: the model's own one first, then the configured one.

    The default one is left out if the model's is known: who has a namespace keeps the servers there.
    """
    own = _namespace_of(location)
    if own is None:
        return [configured]
    return [own] if str(configured) in {str(own), DEFAULT_NAMESPACE} else [own, configured]


def _namespace_of(location: Location | None) -> Namespace | None:
    """Return the namespace of an image in a registry, or of one in the engine that was pulled from a registry."""
    if not isinstance(location, RegistryLocation | EngineLocation):
        return None
    name = location.name.removeprefix("docker://")
    if not location.repo_type and not is_registry(name.partition("/")[0]):
        return None
    reference = Reference.parse(name)
    return Namespace(reference.registry, posixpath.dirname(reference.repository))


def _model(opened: OpenedImage, repo_id: str | None, image: str | None) -> ServedModel:
    index = opened.index
    if index is None:
        return ServedModel(repo_id or opened.name, image=image)
    if index.repo_type != "model":
        raise UsageError(f"{opened.name}: holds the dataset {index.repo_id}, which no server can serve")
    # Only a tag or a request confirms what the index claims.
    name, revision = (index.repo_id, index.revision) if opened.confirmed else (repo_id or opened.name, index.commit)
    return ServedModel(
        name=name,
        revision=revision,
        files=index.files,
        in_parts=frozenset(file.path for file in index.files if file.is_split),
        image=image,
        roots=tuple({ROOT, index.root}),
        has_base=has_base(opened),
    )
