"""Registry credentials as `docker login` left them: config.json, credential stores and helpers, identity tokens."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path

from llmstack.disk import exists
from llmstack.errors import UsageError
from llmstack.oci.auth import Credentials


def lookup(registry: str) -> Credentials | None:
    """Return the credentials of `registry` (host[:port]; Docker Hub is `docker.io`), None when there are none.

    Reads `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`, anew each time. Raises UsageError when an
    entry or a credential helper cannot be used; what a helper printed is not repeated, it may hold a secret.
    """
    if not _configured():
        return None
    # docker-py takes as long to import as all the rest: only who needs it pays for it.
    import docker.auth
    from docker.errors import DockerException

    try:
        # docker.auth itself knows that Docker Hub's key is https://index.docker.io/v1/. It warns of a missing helper
        # before it raises; the error says as much.
        with warnings.catch_warnings(action="ignore"):
            entry = docker.auth.load_config().resolve_authconfig(registry)
        # A helper's answer comes back as Username/Password, config.json's own entry as username/password.
        values = {name.lower(): value for name, value in (entry or {}).items()}
    except DockerException as error:
        missing = "not installed or not available in PATH" in str(error)
        raise _unreadable(
            registry, "its credential helper is not on PATH" if missing else "the credential helper failed"
        ) from None
    except (ValueError, TypeError, LookupError, AttributeError):
        # docker-py takes the file, and what a helper prints, for what they should be.
        raise _unreadable(registry, "an entry, or what a credential helper printed, is not well formed") from None
    if values.get("identitytoken"):
        return Credentials(values.get("username") or "", "", values["identitytoken"])
    if values.get("username") or values.get("password"):
        return Credentials(values.get("username") or "", values.get("password") or "")
    return None


def _configured() -> bool:
    """Tell whether there is any file that docker-py would look into (docker.utils.config.find_config_file)."""
    places = [Path(folder, "config.json")] if (folder := os.environ.get("DOCKER_CONFIG")) else []
    # A container's user may have no home.
    with contextlib.suppress(RuntimeError):
        places += [Path.home() / ".docker/config.json", Path.home() / ".dockercfg"]
    return any(exists(place) for place in places)


def _unreadable(registry: str, cause: str) -> UsageError:
    return UsageError(
        f"the Docker credentials for {registry} cannot be read ({cause})",
        hint=f"run docker login {registry} again, or mend the config.json that DOCKER_CONFIG or ~/.docker holds",
    )
