"""The trust file: whose signatures count, and for which repos.

    signers:
      - name: Acme's release team
        repos: ["acme/*"]
        key: acme.pub
      - repos: ["*"]
        ca: bank-ca.pem

Instead of a trust file, a PEM public key or certificate authority can be given; it is trusted for everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from llmstack.errors import IntegrityError, UsageError, did_you_mean
from llmstack.safe_yaml import YamlError, parse_yaml
from llmstack.signing.bundle import Bundle
from llmstack.signing.certificates import parse_certificates, subject_of_certificate, verified_key
from llmstack.signing.keys import PublicKey, read_pem

_PEM = b"-----BEGIN "
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_MEMBERS = ("name", "repos", "key", "ca")
_EXAMPLE = 'for example: signers: [{repos: ["acme/*"], key: acme.pub}]'


@dataclass(frozen=True, slots=True)
class TrustedSigner:
    """A public key, or certificate authorities (DER), and patterns of what its signatures count for."""

    name: str
    repos: tuple[str, ...]
    key: PublicKey | None = None
    authorities: tuple[bytes, ...] = ()

    def signs(self, subject: str) -> bool:
        """Tell whether signatures of this signer count for a repo id or an image."""
        return any(fnmatchcase(subject, pattern) for pattern in self.repos)

    def made(self, bundle: Bundle) -> str | None:
        """Return the name of who made a signature; None if it was not this signer.

        Raises IntegrityError if the signature is valid, but its certificate is not acceptable.
        """
        if self.key is not None:
            return self.name if self.key.verifies(bundle.signature, bundle.message) else None
        if not bundle.certificates:
            return None
        key = verified_key(bundle.certificates, self.authorities)
        if not key.verifies(bundle.signature, bundle.message):
            return None
        return f"{subject_of_certificate(bundle.certificates[0])} ({self.name})"


@dataclass(frozen=True, slots=True)
class Trust:
    """The signers of a trust file; `path` is for messages."""

    path: Path
    signers: tuple[TrustedSigner, ...]

    def signers_for(self, subject: str) -> list[TrustedSigner]:
        """Return whose signatures count for a repo id or an image. Any of them suffices."""
        return [signer for signer in self.signers if signer.signs(subject)]


def load_trust(path: Path) -> Trust:
    """Read a trust file, or a single PEM file; raises NotFoundError, UsageError."""
    data = read_pem(path)
    if data.lstrip().startswith(_PEM):
        return Trust(path, (_from_pem(data, path.name, ("*",), str(path)),))
    try:
        value = parse_yaml(data)
    except YamlError as error:
        place = f"{path}:{error.line}" if error.line else str(path)
        raise UsageError(f"{place}: invalid YAML: {error.problem}") from error
    entries = value.get("signers") if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{path}: must be a mapping with a list of signers", hint=_EXAMPLE)
    return Trust(path, tuple(_signer(entry, path, f"{path}: signers[{n}]") for n, entry in enumerate(entries)))


def _signer(entry: object, path: Path, place: str) -> TrustedSigner:
    if not isinstance(entry, dict):
        raise UsageError(f"{place}: must be a mapping", hint=_EXAMPLE)
    for member in entry:
        if member not in _MEMBERS:
            raise UsageError(f"{place}: {member!r} is unknown", hint=did_you_mean(str(member), "members", _MEMBERS))
    patterns = entry.get("repos")
    if not isinstance(patterns, list) or not patterns or not all(isinstance(each, str) and each for each in patterns):
        raise UsageError(f"{place}: repos must be a list of patterns", hint=_EXAMPLE)
    if ("key" in entry) == ("ca" in entry):
        raise UsageError(f"{place}: must have either a key or a ca", hint=_EXAMPLE)
    member = "key" if "key" in entry else "ca"
    given = entry[member]
    if not isinstance(given, str) or not given:
        raise UsageError(f"{place}: {member} must be a path, or PEM")
    inline = given.lstrip().startswith(_PEM.decode())
    data = given.encode() if inline else read_pem(path.parent / given)
    if (_CERTIFICATE in data) != (member == "ca"):
        expected = "certificates" if member == "ca" else "a public key"
        raise UsageError(f"{place}: {member} must be {expected} in PEM")
    name = entry.get("name", place if inline else given)
    if not isinstance(name, str) or not name:
        raise UsageError(f"{place}: name must be a string")
    return _from_pem(data, name, tuple(patterns), place)


def _from_pem(data: bytes, name: str, repos: Sequence[str], place: str) -> TrustedSigner:
    if _CERTIFICATE in data:
        return TrustedSigner(name, tuple(repos), authorities=parse_certificates(data, place))
    return TrustedSigner(name, tuple(repos), PublicKey.parse(data, place))


def who_made(bundle: Bundle, signers: Sequence[TrustedSigner]) -> str:
    """Return the name of the signer who made a signature; raises IntegrityError if it was none of them."""
    reason = "it is not of a trusted signer, or not valid"
    for signer in signers:
        try:
            if name := signer.made(bundle):
                return name
        except IntegrityError as error:
            reason = error.message
    raise IntegrityError(reason)
