"""Registry credentials as `docker login` left them: config.json, credential stores and helpers, identity tokens."""

from __future__ import annotations

import warnings

from llmstack.errors import UsageError
from llmstack.oci.auth import Credentials


def lookup(registry: str) -> Credentials | None:
    """Return the credentials of `registry` (host[:port]; Docker Hub is `docker.io`), None when there are none.

    Reads `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`, anew each time. Raises UsageError when an
    entry or a credential helper cannot be used; what a helper printed is not repeated, it may hold a secret.
    """
    import docker.auth
    from docker.errors import DockerException

    try:
        # docker.auth itself knows that Docker Hub's key is https://index.docker.io/v1/. It warns of a missing helper
        # before it raises; the error says as much.
        with warnings.catch_warnings(action="ignore"):
            entry = docker.auth.load_config().resolve_authconfig(registry)
    except (DockerException, ValueError) as error:
        raise UsageError(
            f"the Docker credentials for {registry} cannot be read ({_cause(error)})",
            hint=f"run docker login {registry} again, or mend the config.json that DOCKER_CONFIG or ~/.docker holds",
        ) from None
    # A helper's answer comes back as Username/Password, config.json's own entry as username/password.
    values = {name.lower(): value for name, value in (entry or {}).items()}
    if values.get("identitytoken"):
        return Credentials(values.get("username") or "", "", values["identitytoken"])
    if values.get("username") or values.get("password"):
        return Credentials(values.get("username") or "", values.get("password") or "")
    return None


def _cause(error: Exception) -> str:
    if "not installed or not available in PATH" in str(error):
        return "its credential helper is not on PATH"
    return "an entry is not well formed" if isinstance(error, ValueError) else "the credential helper failed"
