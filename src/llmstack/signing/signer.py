"""Make signatures with a private key, and with a certificate if there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmstack.errors import UsageError
from llmstack.oci.reference import Digest
from llmstack.signing.bundle import Bundle, signed_message
from llmstack.signing.certificates import certified_key, load_certificates
from llmstack.signing.keys import PrivateKey, load_private_key
from llmstack.signing.statement import ModelStatement, image_statement


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key and the signer's certificate with its chain, as DER."""

    key: PrivateKey
    certificates: tuple[bytes, ...] = ()

    def sign_model(self, statement: ModelStatement) -> Bundle:
        """Sign the files of a model (OpenSSF Model Signing v1.0)."""
        return self._bundle(statement.to_bytes(), self.key.public.fingerprint)

    def sign_image(self, digest: Digest) -> Bundle:
        """Sign the digest of an image, as `cosign sign` does."""
        return self._bundle(image_statement(digest), self.key.public.der_fingerprint)

    def _bundle(self, payload: bytes, hint: str) -> Bundle:
        return Bundle(payload, self.key.sign(signed_message(payload)), hint, self.certificates)


def load_signer(key: Path, certificates: Path | None, passphrase: Callable[[], bytes]) -> Signer:
    """Read a private key and a PEM file with the signer's certificate and its chain.

    Raises NotFoundError, UsageError if the certificate is not that of the key.
    """
    private = load_private_key(key, passphrase)
    if certificates is None:
        return Signer(private)
    chain = load_certificates(certificates)
    if certified_key(chain, str(certificates)) != private.public:
        raise UsageError(f"{certificates}: its first certificate is not that of {key}")
    return Signer(private, chain)
