"""The methods of a session for signatures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmstack.carried_image.naming import Namespace
    from llmstack.hf.snapshot import RepoType
    from llmstack.net import Client
    from llmstack.oci.repository import Registries
    from llmstack.reporting import Reporter
    from llmstack.settings import Settings
    from llmstack.signing.sign import SignResult
    from llmstack.signing.trust import Trust


class SigningMethods:
    """sign; Session has the attributes."""

    reporter: Reporter
    client: Client
    registries: Registries
    settings: Settings

    @property
    def namespace(self) -> Namespace:
        """The namespace that images are read from if no source is given."""
        raise NotImplementedError

    def sign(
        self,
        image: str,
        key: str | Path,
        *,
        certificate: str | Path | None = None,
        passphrase: str | Callable[[], bytes] = "",
        source: str | None = None,
        repo_type: RepoType = "model",
    ) -> SignResult:
        """Sign an image and its files with a PEM key, and attach the signatures to it.

        `certificate` is a PEM file with the signer's certificate, followed by its chain. A function as `passphrase` is
        called only if the key is encrypted.
        """
        from llmstack.carried_image.image_location import locate
        from llmstack.signing.sign import sign
        from llmstack.signing.signer import load_signer

        secret = passphrase if callable(passphrase) else passphrase.encode
        signer = load_signer(Path(key), None if certificate is None else Path(certificate), secret)
        self.client.cancel.clear()
        request = locate(image, source, repo_type, self.namespace)
        return sign(request, signer, self.registries, self.reporter)

    def _trust(self, given: str | Path | None) -> Trust | None:
        """Read the trust file that is given or set."""
        path = self.settings.trust if given is None else Path(given)
        if path is None:
            return None
        from llmstack.signing.trust import load_trust

        return load_trust(path)
