"""What a private site changes about every build: mirrors, proxies, its own certificate authority."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from llmstack.errors import UsageError
from llmstack.settings import BuildSettings, Settings

# Where a build finds the site's files; the last step of every Dockerfile that has them takes them away.
SITE_FOLDER = "/opt/llmstack-site"

# What follows the host in the addresses of Debian's and Ubuntu's archives, whatever mirror a base image names.
_ARCHIVE = r"https\?://[^/ ]*/\(debian-security\|debian\|ubuntu-ports\|ubuntu\)\b"
_APT_GET = rf"""#!/bin/sh
# apt-get with the site's archive mirror and certificates, from a copy of /etc/apt: the image keeps its own sources.
set -eu
etc=$(mktemp -d)
trap 'rm -rf "$etc"' EXIT
cp -a /etc/apt/. "$etc"
chmod 755 "$etc"
if [ -f {SITE_FOLDER}/mirror.sed ]; then
  find "$etc" \( -name '*.list' -o -name '*.sources' \) -exec sed -i -f {SITE_FOLDER}/mirror.sed {{}} +
fi
if [ -f {SITE_FOLDER}/ca.crt ]; then
  cat /etc/ssl/certs/ca-certificates.crt {SITE_FOLDER}/ca.crt > "$etc/ca.crt" 2>/dev/null || true
  echo "Acquire::https::CAInfo \"$etc/ca.crt\";" > "$etc/apt.conf.d/99llmstack-site"
fi
apt-get -o "Dir::Etc=$etc" "$@"
"""


@dataclass(frozen=True, slots=True)
class Site(BuildSettings):
    """The build settings, checked, and `namespace`: where images are tagged and pushed to.

    `ca_cert`, of one or more certificates, is trusted in the image for good. The others are used while building only;
    proxies may hold credentials (Docker keeps them out of the image and its history).
    """

    namespace: str = ""

    def __post_init__(self) -> None:
        addresses = {
            "pip_index": (self.pip_index,),
            "pip_extra_index": self.pip_extra_index,
            "apt_mirror": (self.apt_mirror,),
        }
        for setting, urls in addresses.items():
            for url in filter(None, urls):
                _check_url(setting, url)

    @classmethod
    def of(cls, settings: Settings) -> Site:
        """Return the settings' part that is about builds; raises UsageError for an address that cannot be used."""
        # A folder of carried images is no prefix for names that the Docker engine knows.
        namespace = "" if (settings.namespace or "").startswith("oci:") else settings.namespace or ""
        given = {field.name: getattr(settings, field.name) for field in fields(BuildSettings)}
        return cls(**given, namespace=namespace)

    @property
    def proxies(self) -> dict[str, str]:
        """The proxies as Docker's predefined build arguments, which never enter an image's history."""
        values = {"http_proxy": self.http_proxy, "https_proxy": self.https_proxy, "no_proxy": self.no_proxy}
        return {name: value for key, value in values.items() if value for name in (key, key.upper())}

    @property
    def uses_pip(self) -> bool:
        """Tell whether pip needs the site's configuration."""
        return bool(self.pip_index or self.pip_extra_index or self.pip_trusted_host)

    @property
    def uses_apt(self) -> bool:
        """Tell whether apt-get needs the site's mirror or certificates."""
        return bool(self.apt_mirror or self.ca_cert)

    def files(self) -> dict[str, bytes]:
        """Return what lies in SITE_FOLDER during a build; raises UsageError if the CA file is none."""
        files: dict[str, bytes] = {}
        if self.ca_cert:
            files["ca.crt"] = _certificates(self.ca_cert)
        if self.uses_pip:
            files["pip.conf"] = self._pip_conf().encode()
        if self.uses_apt:
            files["apt-get"] = _APT_GET.encode()
        if self.apt_mirror:
            mirror = self.apt_mirror.rstrip("/").replace("\\", r"\\").replace("#", r"\#").replace("&", r"\&")
            files["mirror.sed"] = f"s#{_ARCHIVE}#{mirror}/\\1#\n".encode()
        return files

    def _pip_conf(self) -> str:
        lines = ["[global]"]
        if self.pip_index:
            lines.append(f"index-url = {self.pip_index}")
        if self.pip_extra_index:
            lines.append("extra-index-url =" + "".join(f"\n    {url}" for url in self.pip_extra_index))
        if self.pip_trusted_host:
            lines.append("trusted-host =" + "".join(f"\n    {host}" for host in self.pip_trusted_host))
        return "\n".join(lines) + "\n"


def logins(proxies: Iterable[str]) -> tuple[str, ...]:
    """Return what must not be shown of proxies' addresses, the longest first: names with passwords."""
    # No parser of addresses: they may have no scheme, or be none at all, and hold a password all the same.
    found = {(proxy.partition("://")[2] or proxy).rpartition("@")[0] for proxy in proxies}
    return tuple(sorted(filter(None, found), key=len, reverse=True))


def _check_url(setting: str, url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if "@" in parts.netloc:
        raise UsageError(
            f"the address of {parts.hostname} holds credentials, and build settings with credentials could leak into "
            "an image",
            hint="use an index that needs none inside the site, or put the credentials into the proxy's address",
        )
    if parts.scheme not in {"http", "https"} or not parts.netloc or any(char.isspace() for char in url):
        # The value is left out: it may hold a password.
        raise UsageError(f"{setting} is not an http or https address")


def _certificates(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the CA file {path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise UsageError(f"{path} holds no certificate", hint="it must be a PEM file")
    if b"PRIVATE KEY-----" in data:
        raise UsageError(f"{path} holds a private key, which must not enter an image", hint="give the certificate only")
    return data
