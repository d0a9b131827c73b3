"""ECDSA keys in PEM files, on the curves of the model signing specification: P-256, P-384 and P-521.

The package `cryptography` does all cryptography. Signatures are deterministic (RFC 6979).
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from llmstack.disk import disk_errors
from llmstack.errors import NotFoundError, UsageError

MAX_PEM_SIZE = 1024 * 1024
_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
_CURVES = "the curves are P-256, P-384 and P-521"
_COSIGN_KEY = b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An ECDSA public key on one of the supported curves."""

    key: ec.EllipticCurvePublicKey

    @classmethod
    def of(cls, key: object, place: str) -> PublicKey:
        """Check the type of a key of `cryptography`; raises UsageError, with `place` as where it was read."""
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
            raise UsageError(f"{place}: is not an ECDSA key on a supported curve", hint=_CURVES)
        return cls(key)

    @classmethod
    def parse(cls, data: bytes, place: str) -> PublicKey:
        """Read a PEM public key; raises UsageError."""
        try:
            return cls.of(load_pem_public_key(data), place)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError(f"{place}: is not a PEM public key") from error

    @property
    def pem(self) -> bytes:
        """The key as PEM."""
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def fingerprint(self) -> str:
        """The sha256 of the PEM in hexadecimal: how model signatures and people name the key."""
        return hashlib.sha256(self.pem).hexdigest()

    @property
    def der_fingerprint(self) -> str:
        """The sha256 of the DER in base64: how cosign names the key."""
        der = self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(hashlib.sha256(der).digest()).decode()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Tell whether a signature of a message is valid."""
        try:
            self.key.verify(signature, message, ec.ECDSA(_hash(self.key)))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """An ECDSA private key. It is never printed: the representation names the public key only."""

    key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.fingerprint})"

    @property
    def public(self) -> PublicKey:
        """The public key."""
        return PublicKey(self.key.public_key())

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message: always the same one (RFC 6979)."""
        return self.key.sign(message, ec.ECDSA(_hash(self.key), deterministic_signing=True))


def load_private_key(path: Path, passphrase: Callable[[], bytes]) -> PrivateKey:
    """Read a PEM private key; call `passphrase` only if it is encrypted. Raises NotFoundError, UsageError."""
    data = read_pem(path)
    if data.lstrip().startswith(_COSIGN_KEY):
        raise UsageError(
            f"{path}: is in cosign's own format", hint="llmstack and cosign can share a PEM key: cosign import-key-pair"
        )
    secret = passphrase() if b"ENCRYPTED" in data else None
    try:
        key = load_pem_private_key(data, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        problem = "wrong passphrase, or not a PEM private key" if secret is not None else "is not a PEM private key"
        raise UsageError(f"{path}: {problem}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise UsageError(f"{path}: is not an ECDSA key on a supported curve", hint=_CURVES)
    return PrivateKey(key)


def generate(path: Path, passphrase: bytes) -> PublicKey:
    """Write a new P-256 key to `path`, encrypted if there is a passphrase, and its public key to `path`.pub.

    Raises UsageError if one of the files exists.
    """
    public_path = Path(f"{path}.pub")
    for each in (path, public_path):
        if each.exists() or each.is_symlink():
            raise UsageError(f"{each}: already exists", hint="choose another name for the key")
    key = ec.generate_private_key(ec.SECP256R1())
    protection = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    public = PublicKey(key.public_key())
    with disk_errors(path):
        _write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection), 0o600)
        _write_new(public_path, public.pem, 0o644)
    return public


def read_pem(path: Path) -> bytes:
    """Read a small file; raises NotFoundError, UsageError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PEM_SIZE + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: not found") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_PEM_SIZE:
        raise UsageError(f"{path}: larger than {MAX_PEM_SIZE:,} bytes")
    return data


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _hash(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> hashes.HashAlgorithm:
    return _HASHES[key.curve.name]()
