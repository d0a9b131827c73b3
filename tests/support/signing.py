"""Keys, certificates and signed images for tests."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from llmstack.carried_image.image import Image, open_image
from llmstack.oci.store import BlobStore
from llmstack.signing.keys import PrivateKey
from llmstack.signing.sign import sign_image
from llmstack.signing.signer import Signer
from llmstack.signing.trust import Trust, load_trust

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
DAY = datetime.timedelta(days=1)
START = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


def new_key(curve: str = "P-256") -> PrivateKey:
    return PrivateKey(ec.generate_private_key(CURVES[curve]))


def write_key(folder: Path, key: PrivateKey, name: str = "signer") -> Path:
    """Write NAME.key and NAME.pub; return the path of NAME.key."""
    path = folder / f"{name}.key"
    path.write_bytes(key.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / f"{name}.pub").write_bytes(key.public.pem)
    return path


def trust_in(folder: Path, key: PrivateKey) -> Trust:
    """Trust the owner of a key for everything."""
    path = folder / f"{key.public.fingerprint[:8]}.pub"
    path.write_bytes(key.public.pem)
    return load_trust(path)


def sign_tag(store: BlobStore, tag: str, signer: Signer) -> Image:
    """Sign the image of a tag as `llmstack sign` does; return it."""
    image = open_image(store, tag)
    sign_image(image, store, signer)
    return image


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that issues certificates."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @classmethod
    def root(cls, name: str = "Root") -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, _certificate(name, key.public_key(), name, key, ca=True))

    def subordinate(self, name: str = "Intermediate", *, ca: bool = True) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return Authority(key, _certificate(name, key.public_key(), self._name, self.key, ca=ca))

    def issue(
        self,
        key: PrivateKey,
        *,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING,
        start: datetime.datetime = START,
    ) -> x509.Certificate:
        """Issue a certificate that is valid for a day."""
        public = key.key.public_key()
        return _certificate("Release team", public, self._name, self.key, ca=False, usage=usage, start=start)

    @property
    def _name(self) -> str:
        return str(self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _certificate(
    name: str,
    public: ec.EllipticCurvePublicKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
    usage: x509.ObjectIdentifier | None = None,
    start: datetime.datetime | None = None,
) -> x509.Certificate:
    begin, length = (start, DAY) if start else (START - 100 * DAY, 20_000 * DAY)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + length)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True)
    )
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def model_signing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the program of the package model-signing."""
    program = shutil.which("model_signing", path=str(Path(sys.executable).parent)) or "model_signing"
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
