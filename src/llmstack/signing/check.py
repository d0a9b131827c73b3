"""Check the signatures of an image against a trust file, before anything of it is used.

The image's digest must be signed: everything that the image consists of has its hash in its manifests. If it has a file
index, its files must be signed as well, and the signed hashes must be those of the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llmstack.carried_image.file_index import FileIndex
from llmstack.carried_image.image import Image, OpenedImage
from llmstack.errors import IntegrityError
from llmstack.signing.attachments import attached_bundles
from llmstack.signing.bundle import Bundle
from llmstack.signing.statement import (
    IMAGE_PREDICATE,
    MODEL_PREDICATE,
    ModelStatement,
    is_about,
    is_ignored,
    parse_statement,
)
from llmstack.signing.trust import Trust, who_made


@dataclass(frozen=True, slots=True)
class TrustedImage:
    """Who signed an image, and the bundle with the signature of its files; None without a file index."""

    signed_by: tuple[str, ...]
    model_bundle: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Signature:
    """A valid signature of a trusted signer: its statement, and the stored bundle."""

    signer: str
    statement: Mapping[str, object]
    stored: bytes

    @property
    def predicate(self) -> object:
        return self.statement.get("predicateType")


def check_image(image: OpenedImage, trust: Trust) -> TrustedImage:
    """Check the signatures of an opened image.

    Raises IntegrityError unless trusted signers signed its digest and its files, and what reading raises.
    """
    if not isinstance(image, Image):
        raise IntegrityError(
            f"{image.name}: has no signatures: the Docker Engine does not keep them",
            hint="read the image from its registry or from an OCI layout: --from",
            side="source",
        )
    if image.confirmed is False:
        raise IntegrityError(
            f"{image.name}: its tag or repository is not that of the {image.index.claim if image.index else 'repo'}, "
            "which was signed",
            side="source",
        )
    subject = image.index.repo_id if image.index else image.reader.name
    signers = trust.signers_for(subject)
    if not signers:
        raise IntegrityError(
            f"{image.name}: {trust.path} has no signer for {subject}",
            hint="add a signer with its repos to that file",
            side="source",
        )
    signatures: list[_Signature] = []
    problems: list[str] = []
    for stored in attached_bundles(image.reader, image.digest):
        try:
            bundle = Bundle.parse(stored)
            # First who made it: strangers do not get their statements parsed.
            signer = who_made(bundle, signers)
            signatures.append(_Signature(signer, parse_statement(bundle.payload), stored))
        except IntegrityError as error:
            problems.append(error.message)
    by_digest = [each for each in signatures if each.predicate == IMAGE_PREDICATE]
    valid = [each for each in by_digest if is_about(each.statement, image.digest)]
    if not valid:
        raise _refused(image, "its digest", problems, [_OTHER_DIGEST] * len(by_digest))
    names = {each.signer for each in valid}
    if image.index is None:
        return TrustedImage(tuple(sorted(names)))
    model, mismatches = _matching(signatures, image.index)
    if model is None:
        raise _refused(image, "its files", problems, mismatches)
    return TrustedImage(tuple(sorted({*names, model.signer})), model.stored)


_OTHER_DIGEST = "it is of another image"


def _matching(signatures: Iterable[_Signature], index: FileIndex) -> tuple[_Signature | None, list[str]]:
    """Return the signature of the files of an index, and why others are not."""
    mismatches = []
    for signature in signatures:
        if signature.predicate == MODEL_PREDICATE:
            try:
                compare(ModelStatement.parse(signature.statement), index)
            except IntegrityError as error:
                mismatches.append(error.message)
            else:
                return signature, []
    return None, mismatches


def compare(statement: ModelStatement, index: FileIndex) -> None:
    """Check that a statement has the files of an index; raises IntegrityError.

    Files that model signatures leave out are in the index only: they are covered by the signature of the digest.
    """
    signed, listed = statement.files, {file.path: file.sha256 for file in index.files}
    for path, sha256 in listed.items():
        if path not in signed and not is_ignored(path):
            raise IntegrityError(f"{path[:200]!r} is not signed")
        if signed.get(path, sha256) != sha256:
            raise IntegrityError(f"{path[:200]!r} has another sha256 than was signed")
    for path in signed:
        if path not in listed:
            raise IntegrityError(f"{path[:200]!r} was signed, but the image does not have it")


def statement_of(index: FileIndex) -> ModelStatement:
    """Return the statement about the files of an index."""
    return ModelStatement(index.repo_id, {file.path: file.sha256 for file in index.files if not is_ignored(file.path)})


def _refused(image: Image, what: str, problems: list[str], mismatches: list[str]) -> IntegrityError:
    reasons = mismatches or problems
    if not reasons:
        return IntegrityError(
            f"{image.name}: {what}: not signed",
            hint=f"on the side that has the key: llmstack sign {image.name} --key KEY; copies by docker and skopeo "
            "lose signatures, llmstack copy keeps them",
            side="source",
        )
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return IntegrityError(f"{image.name}: {what}: no valid signature: {reasons[0]}{more}", side="source")
