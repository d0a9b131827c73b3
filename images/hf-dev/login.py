"""Sets up the logins of this container: passwords and keys from secrets or the environment, else what is built in.

Usage: login.py STATE_FOLDER SERVICE... with the services `jupyter` and `ssh`. Exits with a message if a setting is
wrong, or if the default password would be accepted although REFUSE_DEFAULT_PASSWORD is set.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

DEFAULTS = Path("/etc/llmstack/default-passwords")
JUPYTER_HASH = Path("/etc/llmstack/jupyter-password")
SSH_CONFIG = Path("/etc/ssh/sshd_config.d/10-llmstack-start.conf")
ENVIRONMENT = Path("/etc/environment")
PROFILE = Path("/etc/profile.d/llmstack.sh")
# What a login makes for itself, and what must not leave the process it was given to.
OWN = {"HOME", "LC_CTYPE", "USER", "LOGNAME", "SHELL", "SHLVL", "PWD", "OLDPWD", "TERM", "HOSTNAME", "_"}
SECRET = ("PASSWORD", "TOKEN", "SECRET", "KEY", "CREDENTIAL")


def stop(message):
    """End the container with a message; 78 is sysexits' "configuration error"."""
    print(f"hf-dev: {message}", file=sys.stderr)
    raise SystemExit(78)


def switch(name):
    """Tell whether an on/off variable is on."""
    return os.environ.get(name, "").lower() in {"1", "true", "yes", "on"}


def setting(name):
    """Return a secret: the file that NAME_FILE names, else NAME, else None."""
    path = os.environ.get(f"{name}_FILE")
    if path:
        try:
            value = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            stop(f"{name}_FILE: {path} cannot be read: {error.strerror}")
    else:
        value = os.environ.get(name)
    if value is not None and not value.strip():
        stop(f"{name} is empty: leave it out, or set a password")
    return value


def write_private(path, text):
    """Write a file that only this user can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def set_up_jupyter(state):
    """Write the configuration with the password's hash; tell whether it is the built-in one."""
    password = setting("JUPYTER_PASSWORD")
    if password is None:
        hashed = JUPYTER_HASH.read_text(encoding="utf-8").strip()
    else:
        from jupyter_server.auth import passwd

        hashed = passwd(password)
    config = {"PasswordIdentityProvider": {"hashed_password": hashed}}
    write_private(state / "jupyter_server_config.json", json.dumps(config))
    return password is None


def set_up_ssh():
    """Set root's password and keys, make host keys; tell whether the built-in password stays in force."""
    keys, password, key_only = setting("SSH_AUTHORIZED_KEYS"), setting("SSH_ROOT_PASSWORD"), switch("SSH_KEY_ONLY")
    authorized = Path("/root/.ssh/authorized_keys")
    if keys:
        authorized.parent.mkdir(mode=0o700, exist_ok=True)
        write_private(authorized, keys + "\n")
    if key_only and not authorized.exists():
        stop("SSH_KEY_ONLY is set, but there is no key: set SSH_AUTHORIZED_KEYS_FILE or SSH_AUTHORIZED_KEYS")
    if password is not None:
        subprocess.run(["chpasswd"], input=f"root:{password}\n", text=True, check=True)
    SSH_CONFIG.unlink(missing_ok=True)
    if key_only:
        SSH_CONFIG.write_text("PasswordAuthentication no\nPermitRootLogin prohibit-password\n", encoding="utf-8")
    subprocess.run(["ssh-keygen", "-A"], stdout=subprocess.DEVNULL, check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    show_environment()
    return password is None and not key_only


def show_environment():
    """Let ssh logins see the container's environment: pam_env reads the one file, login shells the other."""
    variables = {
        name: value
        for name, value in sorted(os.environ.items())
        if name not in OWN and "\n" not in value and not any(word in name.upper() for word in SECRET)
    }
    ENVIRONMENT.write_text("".join(f'{name}="{value}"\n' for name, value in variables.items() if '"' not in value))
    # /etc/profile sets PATH anew in every login shell.
    PROFILE.write_text(f"export PATH={shlex.quote(variables.get('PATH', ''))}\n")


def warn(services):
    """Say loudly which service everybody can log in to."""
    line = "*" * 78
    how = {"jupyter": "JUPYTER_PASSWORD_FILE", "ssh": "SSH_ROOT_PASSWORD_FILE, or SSH_KEY_ONLY=1 with a key"}
    print(line, file=sys.stderr)
    print("WARNING: this container accepts the default password, which everybody knows.", file=sys.stderr)
    for service in services:
        print(f"         {service}: set {how[service]}", file=sys.stderr)
    print("         REFUSE_DEFAULT_PASSWORD=1 makes the container refuse to start like this.", file=sys.stderr)
    print(line, file=sys.stderr)


def main():
    """Set up the services that were asked for."""
    state, services = Path(sys.argv[1]), sys.argv[2:]
    (state / "runtime").mkdir(mode=0o700, parents=True, exist_ok=True)
    built_in = {"jupyter": lambda: set_up_jupyter(state), "ssh": set_up_ssh}
    known = set(DEFAULTS.read_text(encoding="utf-8").split()) if DEFAULTS.exists() else set()
    open_services = [service for service in services if built_in[service]() and service in known]
    if open_services:
        if switch("REFUSE_DEFAULT_PASSWORD"):
            stop(f"REFUSE_DEFAULT_PASSWORD is set, and the default password is in force for {', '.join(open_services)}")
        warn(open_services)
    (state / "services").write_text(" ".join(services), encoding="utf-8")


main()
