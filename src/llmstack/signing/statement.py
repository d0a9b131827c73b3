"""The in-toto statements that are signed: one about the files of a model, one about the digest of an image.

Formats: OpenSSF Model Signing v1.0 (ossf/model-signing-spec, spec/v1.0.md), and what `cosign sign` writes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmstack.errors import IntegrityError
from llmstack.oci.reference import Digest
from llmstack.oci.spec import canonical_json, parse_object

STATEMENT = "https://in-toto.io/Statement/v1"
MODEL_PREDICATE = "https://model_signing/signature/v1.0"
IMAGE_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
# The file that a model signature is written to; verifiers leave it out.
SIGNATURE_FILE = "model.sig"
# Model signatures never cover these at the top of a repo (spec/v1.0.md, "Path Exclusion").
IGNORED = (".git", ".gitattributes", ".github", ".gitignore")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelStatement:
    """The sha256 of each file of a model, by path. `name` informs only."""

    name: str
    files: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """Serialize the statement; the same files give the same bytes."""
        ordered = sorted(self.files.items())
        own = () if SIGNATURE_FILE in self.files else (SIGNATURE_FILE,)
        return canonical_json(
            {
                "_type": STATEMENT,
                "subject": [{"name": self.name, "digest": {"sha256": _root_digest([sha256 for _, sha256 in ordered])}}],
                "predicateType": MODEL_PREDICATE,
                "predicate": {
                    "serialization": {
                        "method": "files",
                        "hash_type": "sha256",
                        "allow_symlinks": False,
                        "ignore_paths": [*IGNORED, *own],
                    },
                    "resources": [{"name": path, "digest": sha256, "algorithm": "sha256"} for path, sha256 in ordered],
                },
            }
        )

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> ModelStatement:
        """Read a statement with this predicate; raises IntegrityError."""
        try:
            [subject] = value["subject"]
            serialization, resources = value["predicate"]["serialization"], value["predicate"]["resources"]
            method, algorithm = serialization["method"], serialization["hash_type"]
            name, root = str(subject["name"]), subject["digest"]["sha256"]
            listed = [(each["name"], each["digest"], each["algorithm"]) for each in resources]
            files = {path: sha256 for path, sha256, _ in listed}
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError("model signature: invalid statement") from error
        if method != "files" or any(used != "sha256" for used in (algorithm, *(used for *_, used in listed))):
            raise IntegrityError("model signature: only sha256 of complete files is supported")
        if not listed or len(files) != len(listed) or not all(_is_file(*each) for each in files.items()):
            raise IntegrityError("model signature: invalid list of files")
        if _root_digest([sha256 for _, sha256, _ in listed]) != root:
            raise IntegrityError("model signature: the digest of its subject is not that of its files")
        return cls(name, files)


def image_statement(digest: Digest) -> bytes:
    """Return the statement about an image's digest, as cosign writes it."""
    return canonical_json(
        {
            "_type": STATEMENT,
            "subject": [{"digest": {"sha256": digest.hex}, "annotations": {}}],
            "predicateType": IMAGE_PREDICATE,
            "predicate": {},
        }
    )


def is_about(value: Mapping[str, Any], digest: Digest) -> bool:
    """Tell whether the only subject of a statement is the manifest `digest`."""
    subjects = value.get("subject")
    if not isinstance(subjects, list) or len(subjects) != 1 or not isinstance(subjects[0], dict):
        return False
    digests = subjects[0].get("digest")
    return isinstance(digests, dict) and digests == {"sha256": digest.hex}


def parse_statement(payload: bytes) -> dict[str, Any]:
    """Read an in-toto statement of any predicate; raises IntegrityError."""
    value = parse_object(payload, "signature: statement")
    if value.get("_type") != STATEMENT:
        raise IntegrityError(f"signature: the statement is not an {STATEMENT}")
    return value


def is_ignored(path: str) -> bool:
    """Tell whether model signatures leave a file out."""
    return path.partition("/")[0] in IGNORED


def _is_file(path: object, sha256: object) -> bool:
    return isinstance(path, str) and isinstance(sha256, str) and _SHA256.fullmatch(sha256) is not None


def _root_digest(digests: list[Any]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(each) for each in digests)).hexdigest()
