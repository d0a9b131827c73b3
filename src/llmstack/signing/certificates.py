"""Certificates of signers, and the check of their chain against certificate authorities.

The clock of this machine is not asked: a chain is valid if it was at the moment when the signer's certificate began.
Disks wait for months and far sides have wrong clocks, and a signature here has no trusted time. model-signing has the
same rule. Revoke a certificate by removing its authority from the trust file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from llmstack.errors import IntegrityError, UsageError
from llmstack.signing.keys import PublicKey, read_pem


def load_certificates(path: Path) -> tuple[bytes, ...]:
    """Read the certificates of a PEM file, as DER; raises NotFoundError, UsageError."""
    return parse_certificates(read_pem(path), str(path))


def parse_certificates(data: bytes, place: str) -> tuple[bytes, ...]:
    """Return the certificates of a PEM document, as DER; raises UsageError."""
    try:
        return tuple(each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(data))
    except ValueError as error:
        raise UsageError(f"{place}: has no PEM certificate") from error


def certified_key(certificates: Sequence[bytes], place: str) -> PublicKey:
    """Return the key of a signer's certificate, which is the first one; raises UsageError if it may not sign."""
    try:
        leaf = x509.load_der_x509_certificate(certificates[0])
        problem = _problem_of(leaf)
        key = PublicKey.of(leaf.public_key(), place)
    except ValueError as error:
        raise UsageError(f"{place}: invalid certificate") from error
    if problem:
        raise UsageError(
            f"{place}: its first certificate {problem}", hint="certificates of web servers cannot sign models"
        )
    return key


def verified_key(certificates: Sequence[bytes], authorities: Sequence[bytes]) -> PublicKey:
    """Return the key of the signer's certificate, which is the first one, after the check of its chain.

    Raises IntegrityError if the chain does not lead to one of the authorities, or the certificate may not sign.
    """
    try:
        leaf, *others = map(x509.load_der_x509_certificate, certificates)
        store = Store([x509.load_der_x509_certificate(each) for each in authorities])
        # cryptography has policies for certificates of web servers, and none for signing code.
        policy = PolicyBuilder().store(store).time(leaf.not_valid_before_utc)
        policy = policy.extension_policies(
            ca_policy=ExtensionPolicy.permit_all()
            .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _check_authority)
            .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _check_key_usage),
            ee_policy=ExtensionPolicy.permit_all(),
        )
        policy.build_client_verifier().verify(leaf, others)
        problem = _problem_of(leaf)
        key = PublicKey.of(leaf.public_key(), "the signer's certificate")
    except (VerificationError, ValueError, x509.ExtensionNotFound) as error:
        raise IntegrityError(f"its certificate is not of a trusted authority: {error}") from error
    except UsageError as error:
        raise IntegrityError(error.message) from error
    if problem:
        raise IntegrityError(f"its certificate {problem}")
    return key


def subject_of_certificate(certificate: bytes) -> str:
    """Return the subject of a certificate, for messages."""
    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()


def _check_authority(_policy: object, _certificate: x509.Certificate, extension: x509.BasicConstraints) -> None:
    if not extension.ca:
        raise ValueError("a certificate of the chain is not an authority's")


def _check_key_usage(_policy: object, _certificate: x509.Certificate, extension: x509.KeyUsage | None) -> None:
    if extension is not None and not extension.key_cert_sign:
        raise ValueError("a certificate of the chain may not sign certificates")


def _problem_of(leaf: x509.Certificate) -> str | None:
    """Tell why a certificate may not sign code. Certificates of web servers may not."""
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = x509.ExtendedKeyUsage([])
    return None if ExtendedKeyUsageOID.CODE_SIGNING in usage else "lacks the extended key usage codeSigning"
