"""Registry credentials of `docker login`: config.json, credential stores and helpers, identity tokens."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path

from llmstack.disk import exists
from llmstack.errors import UsageError
from llmstack.oci.auth import Credentials


def lookup(registry: str) -> Credentials | None:
    """Return the credentials for `registry` (host[:port]; Docker Hub is `docker.io`), or None.

    Reads `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`, on each call. Raises UsageError if an entry or a
    credential helper fails; the error does not show the helper's output, which may hold a secret.
    """
    if not _configured():
        return None
    # docker-py takes as long to import as everything else: import it only where it is used.
    import docker.auth
    from docker.errors import DockerException

    try:
        # docker.auth maps docker.io to its key, https://index.docker.io/v1/. It warns of a missing helper and then
        # raises an error that says the same.
        with warnings.catch_warnings(action="ignore"):
            entry = docker.auth.load_config().resolve_authconfig(registry)
        # A helper returns Username and Password, config.json username and password.
        values = {name.lower(): value for name, value in (entry or {}).items()}
    except DockerException as error:
        missing = "not installed or not available in PATH" in str(error)
        raise _unreadable(
            registry, "credential helper not found on PATH" if missing else "credential helper failed"
        ) from None
    except (ValueError, TypeError, LookupError, AttributeError):
        # docker-py does not validate config.json or a helper's output.
        raise _unreadable(registry, "invalid entry in config.json, or invalid output of a credential helper") from None
    if values.get("identitytoken"):
        return Credentials(values.get("username") or "", "", values["identitytoken"])
    if values.get("username") or values.get("password"):
        return Credentials(values.get("username") or "", values.get("password") or "")
    return None


def _configured() -> bool:
    """Tell whether any file exists that docker-py reads (docker.utils.config.find_config_file)."""
    paths = [Path(directory, "config.json")] if (directory := os.environ.get("DOCKER_CONFIG")) else []
    # The user of a container may have no home directory.
    with contextlib.suppress(RuntimeError):
        paths += [Path.home() / ".docker/config.json", Path.home() / ".dockercfg"]
    return any(exists(path) for path in paths)


def _unreadable(registry: str, cause: str) -> UsageError:
    return UsageError(
        f"Docker credentials for {registry}: cannot be read: {cause}",
        hint=f"docker login {registry}, or fix config.json in $DOCKER_CONFIG or ~/.docker",
    )
