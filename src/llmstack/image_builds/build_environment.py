"""What a private network changes in every build: package mirrors, proxies, its own certificate authority."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from llmstack.engine.buildx import Buildx, choose_builder
from llmstack.engine.docker_build import ClassicBuilder
from llmstack.errors import UsageError
from llmstack.settings import BuildSettings, Settings

# The environment's files in the build context, and in the image during the build. The last root step removes them.
CONTEXT_FOLDER = "site"
IMAGE_FOLDER = "/opt/llmstack-site"

# The files with credentials, by their setting, and where pip reads them in a build step. No layer contains them.
SECRET_PATHS = {"pip_config": "/root/.config/pip/pip.conf", "netrc": "/root/.netrc"}

# The host and path of Debian's and Ubuntu's archives, as any base image may name them.
_ARCHIVE = r"https\?://[^/ ]*/\(debian-security\|debian\|ubuntu-ports\|ubuntu\)\b"
# NVIDIA's packages, in the sources of CUDA base images.
_NVIDIA = r"https\?://[^/ ]*/compute/\([a-z-]*\)/repos/"
_APT_GET = rf"""#!/bin/sh
# apt-get with the configured mirror and certificates, on a copy of /etc/apt: the image keeps its own sources.
set -eu
etc=$(mktemp -d)
trap 'rm -rf "$etc"' EXIT
cp -a /etc/apt/. "$etc"
chmod 755 "$etc"
if [ -f {IMAGE_FOLDER}/mirror.sed ]; then
  find "$etc" \( -name '*.list' -o -name '*.sources' \) -exec sed -i -f {IMAGE_FOLDER}/mirror.sed {{}} +
fi
if [ -f {IMAGE_FOLDER}/ca.crt ]; then
  cat /etc/ssl/certs/ca-certificates.crt {IMAGE_FOLDER}/ca.crt > "$etc/ca.crt" 2>/dev/null || true
  echo "Acquire::https::CAInfo \"$etc/ca.crt\";" > "$etc/apt.conf.d/99llmstack-site"
fi
if [ -f {IMAGE_FOLDER}/mirror.sed ] && [ "$1" = update ]; then
  if apt-get -o "Dir::Etc=$etc" "$@"; then exit; fi
  # The mirror may not have NVIDIA's packages. No recipe needs them: the base image contains CUDA.
  grep -rl '/compute/[a-z-]*/repos/' "$etc" | xargs -r rm
fi
apt-get -o "Dir::Etc=$etc" "$@"
"""


@dataclass(frozen=True, slots=True)
class BuildEnvironment:
    """The checked build settings, and the namespace in which images are tagged and pushed.

    The image keeps trusting `ca_cert`. Every other setting applies during the build only. Proxy URLs may contain
    credentials: Docker keeps them out of the image and its history.
    """

    settings: BuildSettings = field(default_factory=BuildSettings)
    namespace: str = ""

    def __post_init__(self) -> None:
        urls = {
            "pip_index": (self.settings.pip_index,),
            "pip_extra_index": self.settings.pip_extra_index,
            "apt_mirror": (self.settings.apt_mirror,),
        }
        for setting, values in urls.items():
            for url in filter(None, values):
                _check_url(setting, url)

    @classmethod
    def from_settings(cls, settings: Settings) -> BuildEnvironment:
        """Return the build environment of the settings; raises UsageError for an invalid URL."""
        # The directory of an OCI layout cannot be part of an image name in the Docker Engine.
        namespace = settings.namespace or ""
        return cls(settings, "" if namespace.startswith("oci:") else namespace)

    @property
    def proxies(self) -> dict[str, str]:
        """The proxies as Docker's predefined build arguments, in both spellings."""
        names = ("http_proxy", "https_proxy", "no_proxy")
        values = {name: getattr(self.settings, name) for name in names}
        return {name: value for key, value in values.items() if value for name in (key, key.upper())}

    @property
    def secret_files(self) -> dict[str, Path]:
        """The files with credentials, by their setting; raises UsageError if one cannot be read."""
        paths = {name: getattr(self.settings, name) for name in SECRET_PATHS}
        found = {name: path for name, path in paths.items() if path}
        for name, path in found.items():
            try:
                path.open("rb").close()
            except OSError as error:
                raise UsageError(f"{name} {path}: cannot be read: {error.strerror}") from error
        return found

    def builder(self, needs: str = "") -> Buildx | ClassicBuilder:
        """Return the builder of the settings; `needs` says what only buildx can do."""
        secrets = " and ".join(self.secret_files)
        with_password = [name for name, value in self.proxies.items() if proxy_credentials([value])]
        # BuildKit stores build arguments in the engine's build history, where every user of the engine can read them.
        excludes = f"{with_password[0]}: contains a password, which buildx would store" if with_password else ""
        return choose_builder(self.settings.builder, needs or secrets, excludes)

    @property
    def uses_pip(self) -> bool:
        """Tell whether pip needs a configuration file."""
        return bool(self.settings.pip_index or self.settings.pip_extra_index or self.settings.pip_trusted_host)

    @property
    def uses_apt(self) -> bool:
        """Tell whether apt-get needs a mirror or certificates."""
        return bool(self.settings.apt_mirror or self.settings.ca_cert)

    def files(self) -> dict[str, bytes]:
        """Return the files of IMAGE_FOLDER; raises UsageError for an invalid CA file."""
        files: dict[str, bytes] = {}
        if self.settings.ca_cert:
            files["ca.crt"] = _certificates(self.settings.ca_cert)
        if self.uses_pip:
            files["pip.conf"] = self._pip_conf().encode()
        if self.uses_apt:
            files["apt-get"] = _APT_GET.encode()
        if self.settings.apt_mirror:
            mirror = self.settings.apt_mirror.rstrip("/").replace("\\", r"\\").replace("#", r"\#").replace("&", r"\&")
            lines = f"s#{_ARCHIVE}#{mirror}/\\1#\ns#{_NVIDIA}#{mirror}/compute/\\1/repos/#\n"
            files["mirror.sed"] = lines.encode()
        return files

    def _pip_conf(self) -> str:
        lines = ["[global]"]
        if self.settings.pip_index:
            lines.append(f"index-url = {self.settings.pip_index}")
        if self.settings.pip_extra_index:
            lines.append("extra-index-url =" + "".join(f"\n    {url}" for url in self.settings.pip_extra_index))
        if self.settings.pip_trusted_host:
            lines.append("trusted-host =" + "".join(f"\n    {host}" for host in self.settings.pip_trusted_host))
        return "\n".join(lines) + "\n"


def proxy_credentials(proxies: Iterable[str]) -> tuple[str, ...]:
    """Return the `user:password` parts of proxy URLs, the longest first, to hide them in all output."""
    # No URL parser: an invalid URL or one without a scheme may contain a password, too.
    found = {(proxy.partition("://")[2] or proxy).rpartition("@")[0] for proxy in proxies}
    return tuple(sorted(filter(None, found), key=len, reverse=True))


def _check_url(setting: str, url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if "@" in parts.netloc:
        raise UsageError(
            f"{setting}: the URL of {parts.hostname} contains credentials, which could leak into an image",
            hint="use a mirror without authentication, or give the credentials with the proxy URL",
        )
    if parts.scheme not in {"http", "https"} or not parts.netloc or any(char.isspace() for char in url):
        # The URL may contain a password: do not show it.
        raise UsageError(f"{setting}: invalid URL", hint="write it as http://HOST/PATH or https://HOST/PATH")


def _certificates(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"CA file {path}: cannot be read: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise UsageError(f"CA file {path}: contains no certificate", hint="convert it to PEM")
    if b"PRIVATE KEY-----" in data:
        raise UsageError(
            f"CA file {path}: contains a private key, which must not enter an image",
            hint="give a file with the certificates only",
        )
    return data
