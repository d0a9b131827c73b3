"""Set up this container's logins: passwords and keys from secrets or the environment, else the built-in defaults.

Usage: login.py STATE_FOLDER SERVICE... with the services `jupyter` and `ssh`. Exits with a message if a setting is
invalid, or if the default password would be accepted although REFUSE_DEFAULT_PASSWORD is set.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

DEFAULTS = Path("/etc/llmstack/default-passwords")
JUPYTER_HASH = Path("/etc/llmstack/jupyter-password")
SSH_CONFIG = Path("/etc/ssh/sshd_config.d/10-llmstack-start.conf")
PROFILE = Path("/etc/profile.d/llmstack.sh")
# Variables that each login sets itself.
OWN = {"HOME", "LC_CTYPE", "USER", "LOGNAME", "SHELL", "SHLVL", "PWD", "OLDPWD", "TERM", "HOSTNAME", "_"}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# One such word in a variable's name, between underscores, means a secret: HF_TOKEN, PGPASSWORD.
SECRET_WORD = re.compile(
    r"KEYS?|CRED|PAT|AUTH|JWTS?|CONNECTIONSTRINGS?"
    r"|[A-Z0-9]*(PASSWORDS?|PASSWD|PASSPHRASE|PWD|(?<!BY)(?<!COM)PASS|TOKEN|SECRETS?|CREDENTIALS?|CREDS)"
    r"|[A-Z0-9]*(API|ACCESS|SECRET|PRIVATE|ENCRYPTION|SIGNING|ACCOUNT|MASTER|SSH)KEYS?"
    r"|(API|ACCESS|AUTH|REFRESH)TOKENS"
)
# TOKENS is a secret, but not in numbers and settings of a model's tokens: MAX_NEW_TOKENS, SKIP_SPECIAL_TOKENS.
MODEL_TOKENS = {"MAX", "MIN", "NUM", "N", "NEW", "INPUT", "OUTPUT", "TOTAL", "PROMPT", "CONTEXT", "SPECIAL", "PER"}
URL_CREDENTIALS = re.compile(r"://[^/?#\s]*@")


def stop(message):
    """End the container with a message; 78 is sysexits' "configuration error"."""
    print(f"hf-dev: {message}", file=sys.stderr)
    raise SystemExit(78)


def switch(name):
    """Tell whether an on/off variable is on."""
    return os.environ.get(name, "").lower() in {"1", "true", "yes", "on"}


def setting(name):
    """Return a secret: the content of the file in NAME_FILE, else NAME, else None."""
    path = os.environ.get(f"{name}_FILE")
    if path:
        try:
            value = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            stop(f"{name}_FILE: {path}: cannot be read: {error.strerror}")
    else:
        value = os.environ.get(name)
    if value is not None and not value.strip():
        stop(f"{name} is empty: remove it or set a password")
    return value


def write_private(path, content):
    """Write a file that only this user can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(os.fsencode(content))


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
    """Set root's password and keys, create host keys; tell whether the built-in password is accepted."""
    keys, password, key_only = setting("SSH_AUTHORIZED_KEYS"), setting("SSH_ROOT_PASSWORD"), switch("SSH_KEY_ONLY")
    authorized = Path("/root/.ssh/authorized_keys")
    if keys:
        authorized.parent.mkdir(mode=0o700, exist_ok=True)
        write_private(authorized, keys + "\n")
    if key_only and not authorized.exists():
        stop("SSH_KEY_ONLY is set, but there is no key: set SSH_AUTHORIZED_KEYS_FILE or SSH_AUTHORIZED_KEYS")
    if password is not None:
        subprocess.run(["chpasswd"], input=f"root:{password}\n", text=True, check=True)
    variables = session_variables()
    config = [f"SetEnv {' '.join(sshd_quote(f'{name}={value}') for name, value in variables.items())}"]
    if key_only:
        config += ["PasswordAuthentication no", "PermitRootLogin prohibit-password"]
    write_private(SSH_CONFIG, "\n".join(config) + "\n")
    # /etc/profile resets PATH in each login shell.
    PROFILE.write_text(f"export PATH={shlex.quote(os.environ['PATH'])}\n")
    subprocess.run(["ssh-keygen", "-A"], stdout=subprocess.DEVNULL, check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return password is None and not key_only


def is_secret(name):
    """Tell whether a variable is a secret, by its name."""
    words = name.upper().replace("CONNECTION_STRING", "CONNECTIONSTRING").split("_")
    return any(map(SECRET_WORD.fullmatch, words)) or ("TOKENS" in words and MODEL_TOKENS.isdisjoint(words))


def session_variables():
    """Return the container's variables for SSH sessions, without secrets; report those that cannot be passed on."""
    variables, left_out = {}, []
    for name, value in sorted(os.environ.items()):
        if name in OWN or is_secret(name) or not NAME.fullmatch(name):
            continue
        if URL_CREDENTIALS.search(value) or (name.lower().endswith("_proxy") and "@" in value):
            left_out.append(f"{name} (contains credentials)")
        elif "\n" in value:
            left_out.append(f"{name} (contains a line break)")
        elif '"' in value and not sshd_has_escapes():
            left_out.append(f"{name} (contains a double quote, which needs OpenSSH 8.7)")
        else:
            variables[name] = value
    if left_out:
        print(f"hf-dev: SSH sessions do not get {', '.join(left_out)}", file=sys.stderr)
    return variables


def sshd_quote(assignment):
    r"""Quote an argument of sshd_config. OpenSSH 8.7 and newer read \\ and \" as escapes, older ones as they are."""
    if sshd_has_escapes():
        assignment = assignment.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{assignment}"'


def sshd_has_escapes():
    """Tell whether sshd reads escapes in its configuration."""
    version = subprocess.run(["ssh", "-V"], stderr=subprocess.PIPE, text=True, check=True).stderr
    return tuple(map(int, re.match(r"OpenSSH_(\d+)\.(\d+)", version).groups())) >= (8, 7)


def warn(services):
    """Print a warning with the services that accept the default password."""
    line = "*" * 78
    how = {"jupyter": "JUPYTER_PASSWORD_FILE", "ssh": "SSH_ROOT_PASSWORD_FILE, or SSH_KEY_ONLY=1 with a key"}
    print(line, file=sys.stderr)
    print("WARNING: this container accepts the default password, which is public.", file=sys.stderr)
    for service in services:
        print(f"         {service}: set {how[service]}", file=sys.stderr)
    print("         With REFUSE_DEFAULT_PASSWORD=1, such a container does not start.", file=sys.stderr)
    print(line, file=sys.stderr)


def main():
    """Set up the requested services."""
    state, services = Path(sys.argv[1]), sys.argv[2:]
    (state / "runtime").mkdir(mode=0o700, parents=True, exist_ok=True)
    built_in = {"jupyter": lambda: set_up_jupyter(state), "ssh": set_up_ssh}
    known = set(DEFAULTS.read_text(encoding="utf-8").split()) if DEFAULTS.exists() else set()
    open_services = [service for service in services if built_in[service]() and service in known]
    if open_services:
        if switch("REFUSE_DEFAULT_PASSWORD"):
            stop(f"REFUSE_DEFAULT_PASSWORD is set, and the default password is accepted by {', '.join(open_services)}")
        warn(open_services)
    (state / "services").write_text(" ".join(services), encoding="utf-8")


if __name__ == "__main__":
    main()
