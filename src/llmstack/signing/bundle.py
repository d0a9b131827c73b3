"""Sigstore bundles with a DSSE envelope: what is stored of a signature.

Formats: Sigstore bundle v0.3 (sigstore/protobuf-specs), DSSE v1 (secure-systems-lab/dsse).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from llmstack.errors import IntegrityError
from llmstack.oci.spec import canonical_json, parse_object

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
# Enough for a statement about 100,000 files.
MAX_BUNDLE_SIZE = 64 * 1024 * 1024
MAX_CERTIFICATES = 10


@dataclass(frozen=True, slots=True)
class Bundle:
    """A signed statement, and what it says about its key.

    `hint` is the key's fingerprint; it is no proof. `certificates` are DER, the signer's first.
    """

    payload: bytes
    signature: bytes
    hint: str = ""
    certificates: tuple[bytes, ...] = ()

    @property
    def message(self) -> bytes:
        """The bytes that the signature is over."""
        return signed_message(self.payload)

    def to_bytes(self) -> bytes:
        """Serialize the bundle; the same values give the same bytes."""
        if self.certificates:
            chain = {"certificates": [{"rawBytes": _base64(each)} for each in self.certificates]}
            material: dict[str, Any] = {"x509CertificateChain": chain}
        else:
            material = {"publicKey": {"hint": self.hint}}
        return canonical_json(
            {
                "mediaType": BUNDLE_TYPE,
                "verificationMaterial": {**material, "tlogEntries": []},
                "dsseEnvelope": {
                    "payload": _base64(self.payload),
                    "payloadType": PAYLOAD_TYPE,
                    "signatures": [{"sig": _base64(self.signature), "keyid": ""}],
                },
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Bundle:
        """Read a bundle; raises IntegrityError."""
        value = parse_object(data, "signature bundle")
        if value.get("mediaType") != BUNDLE_TYPE:
            raise IntegrityError(f"signature bundle: is not {BUNDLE_TYPE}")
        try:
            envelope, material = value["dsseEnvelope"], value["verificationMaterial"]
            if envelope["payloadType"] != PAYLOAD_TYPE:
                raise IntegrityError(f"signature bundle: its payload is not {PAYLOAD_TYPE}")
            [signature] = envelope["signatures"]
            chain = material.get("x509CertificateChain", {}).get("certificates", [])
            if "certificate" in material:
                chain = [material["certificate"]]
            if len(chain) > MAX_CERTIFICATES:
                raise IntegrityError(f"signature bundle: more than {MAX_CERTIFICATES} certificates")
            return cls(
                payload=_bytes(envelope["payload"]),
                signature=_bytes(signature["sig"]),
                hint=str(material.get("publicKey", {}).get("hint") or ""),
                certificates=tuple(_bytes(each["rawBytes"]) for each in chain),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError("signature bundle: invalid") from error


def signed_message(payload: bytes) -> bytes:
    """Return the bytes that are signed for a payload (DSSE, "PAE")."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise IntegrityError("signature bundle: invalid base64") from error
