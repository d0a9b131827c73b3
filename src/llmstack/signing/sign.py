"""`llmstack sign`: sign an image and the files in it, without reading a byte of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmstack.carried_image import annotation_keys
from llmstack.carried_image.image import Image
from llmstack.carried_image.image_location import ImageRequest, LayoutLocation, RegistryLocation
from llmstack.carried_image.open_location import open_requested
from llmstack.errors import UsageError, on_side
from llmstack.oci.layout import Layout
from llmstack.oci.repository import Registries
from llmstack.oci.store import BlobStore
from llmstack.reporting import Reporter
from llmstack.signing.attachments import Attachment, attach
from llmstack.signing.check import statement_of
from llmstack.signing.signer import Signer
from llmstack.signing.statement import IMAGE_PREDICATE, MODEL_PREDICATE


@dataclass(frozen=True, slots=True)
class SignResult:
    """What was signed. `signatures` are the digests of the manifests that refer to the image.

    `files` counts the files that a signature lists, 0 for an image without a file index. `key` is the fingerprint of
    the public key. `repo_id` and `commit` are None without a file index.
    """

    image: str
    digest: str
    repo_id: str | None
    commit: str | None
    files: int
    key: str
    signatures: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the object for `sign --json`."""
        return asdict(self)


def sign(request: ImageRequest, signer: Signer, registries: Registries, reporter: Reporter) -> SignResult:
    """Sign an image in a registry or an OCI layout, and attach the signatures; raises LlmstackError."""
    location = request.location
    if not isinstance(location, RegistryLocation | LayoutLocation):
        raise UsageError(
            f"{location}: signatures cannot be attached to it",
            hint="push it to a registry, or copy it to oci:DIR, and sign it there",
        )
    with open_requested(request, registries, reporter.note, prefer_engine=False) as image:
        assert isinstance(image, Image)
        with on_side("destination"):
            return sign_image(image, _store(location, registries), signer)


def sign_image(image: Image, store: BlobStore, signer: Signer) -> SignResult:
    """Sign an opened image, and attach the signatures to it in `store`, which holds it."""
    created = image.index.created if image.index else image.labels.get(annotation_keys.CREATED)
    attachments = []
    files = 0
    if image.index:
        statement = statement_of(image.index)
        if not statement.files:
            raise UsageError(f"{image.name}: has no file that a model signature can list")
        files = len(statement.files)
        attachments.append(Attachment(MODEL_PREDICATE, signer.sign_model(statement).to_bytes(), created))
    attachments.append(Attachment(IMAGE_PREDICATE, signer.sign_image(image.digest).to_bytes(), created))
    return SignResult(
        image=image.name,
        digest=image.digest,
        repo_id=image.index.repo_id if image.index else None,
        commit=image.index.commit if image.index else None,
        files=files,
        key=signer.key.public.fingerprint,
        signatures=tuple(attach(store, image.raw_manifest, each) for each in attachments),
    )


def _store(location: RegistryLocation | LayoutLocation, registries: Registries) -> BlobStore:
    if isinstance(location, LayoutLocation):
        return Layout(Path(location.path))
    return registries.repository(location.reference, write=True)
