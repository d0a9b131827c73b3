"""hf-dev for CPUs: built once, used through Jupyter and SSH, and searched for secrets."""

from __future__ import annotations

import http.cookiejar
import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
import uuid

import pytest
import websocket

from tests.images.training import TRAIN
from tests.support.process import need
from tests.support.standin import running

# In two parts: a search for the password must not find this file.
DEFAULT = "hgf" + "good"
# The result of ssh() if the login is refused.
DENIED = object()
COMPILE = """
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from trl import SFTTrainer
values = torch.rand(100)
compiled = torch.compile(lambda x: torch.sin(x) + torch.cos(x))
assert torch.allclose(compiled(values), torch.sin(values) + torch.cos(values), atol=1e-5)
weights = torch.nn.Parameter(torch.ones(64))
weights.grad = torch.ones(64)
DeepSpeedCPUAdam([weights], lr=0.1).step()
print("updated:", round(float(weights[0]), 3))
"""
pytestmark = [pytest.mark.timeout(1800), pytest.mark.xdist_group("images")]


class Browser:
    """A browser session with Jupyter."""

    def __init__(self, address):
        self.root = f"http://{address}"
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies)
        )

    def get(self, path, data=None):
        """Return the status and the body."""
        try:
            with self.opener.open(self.root + path, data, timeout=30) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def log_in(self, password):
        """Submit the login page; return the status of the kernels API afterwards."""
        assert self.get("/login")[0] == 200
        form = urllib.parse.urlencode({"_xsrf": self.xsrf, "password": password}).encode()
        self.get("/login", form)
        return self.get("/api/kernels")[0]

    @property
    def xsrf(self):
        return next(cookie.value for cookie in self.cookies if cookie.name == "_xsrf")

    def run(self, code):
        """Start a kernel, run code in it, and return its output."""
        status, body = self.get(f"/api/kernels?_xsrf={self.xsrf}", b"{}")
        assert status == 201, body
        kernel = json.loads(body)["id"]
        cookie = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies)
        socket = websocket.create_connection(
            f"{self.root.replace('http', 'ws')}/api/kernels/{kernel}/channels", cookie=cookie, timeout=90
        )
        try:
            return self._execute(socket, code)
        finally:
            socket.close()

    @staticmethod
    def _execute(socket, code):
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "username": "",
            "session": "t",
            "version": "5",
        }
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        socket.send(json.dumps(message))
        printed = ""
        while True:
            answer = json.loads(socket.recv())
            if answer["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            if answer["msg_type"] == "stream":
                printed += answer["content"]["text"]
            assert answer["msg_type"] != "error", answer["content"]
            if answer["msg_type"] == "execute_reply":
                assert answer["content"]["status"] == "ok"
            if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                return printed


@pytest.fixture
def ssh(tmp_path):
    """Return a function that runs a command as root, with a password or a key, and returns its output."""
    # Without a terminal, OpenSSH's client accepts a password only from an askpass program.
    askpass = tmp_path / "askpass"
    askpass.write_text('#!/bin/sh\necho "$ASKED_PASSWORD"\n')
    askpass.chmod(0o700)

    def run(address, command, password="", key=None):
        how = ["PubkeyAuthentication=no", "NumberOfPasswordPrompts=1"]
        if key:
            how = ["PreferredAuthentications=publickey", "IdentitiesOnly=yes", f"IdentityFile={key}"]
        how += ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=30"]
        options = [part for option in how for part in ("-o", option)]
        done = subprocess.run(
            [need("ssh", "openssh-client"), "-F", "/dev/null", *options, f"root@{address}", command],
            env={"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force", "ASKED_PASSWORD": password},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 255 and "Permission denied" in done.stderr:
            return DENIED
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def both(shared_engine, network, hf_dev):
    """A container with the default command and settings."""
    with running(shared_engine, network, hf_dev) as container:
        container.wait_healthy()
        yield container


def test_jupyter_requires_the_password_and_runs_code(both):
    browser = Browser(f"{both.ip}:8888")
    assert browser.get("/api/kernels")[0] == 403
    assert browser.log_in("wrong") == 403
    browser = Browser(f"{both.ip}:8888")
    assert browser.log_in(DEFAULT) == 200
    code = "import torch, transformers, os\nprint(int(torch.ones(2, 3).sum()), transformers.__version__, os.getcwd())"
    assert browser.run(code).splitlines()[-1] == "6 5.23.0 /workspace"


def test_ssh_requires_the_password_and_passes_the_images_environment(both, ssh):
    assert ssh(both.ip, "true", password="wrong") is DENIED
    # Login shells read /etc/profile, which resets PATH.
    command = "echo $HF_HOME $HF_HUB_OFFLINE; command -v python jupyter-lab; bash -lc 'command -v python'"
    assert ssh(both.ip, command, password=DEFAULT).splitlines() == [
        "/workspace/.cache/huggingface 1",
        "/opt/venv/bin/python",
        "/usr/local/bin/jupyter-lab",
        "/opt/venv/bin/python",
    ]


@pytest.mark.images
def test_torch_compile_and_deepspeeds_cpu_adam_compile_their_kernels(shared_engine, hf_dev):
    """As any uid. DeepSpeed's kernel takes minutes on two cores."""
    options = ("--rm", "--network", "none", "--user", "1234:1234")
    done = shared_engine.docker("run", *options, hf_dev, "python", "-c", COMPILE)
    assert done.stdout.splitlines()[-1] == "updated: 0.9"


@pytest.mark.images
def test_trainer_makes_a_step(shared_engine, hf_dev):
    options = ("--rm", "--network", "none", "--workdir", "/tmp")
    done = shared_engine.docker("run", *options, hf_dev, "python", "-c", TRAIN)
    assert re.search("^trained with 5.23.0 0.19.8 SFTTrainer$", done.stdout, re.MULTILINE)


def test_tools_for_people_exist(both, ssh):
    tools = "gcc g++ make ninja wget less nano vi tmux git hf huggingface-cli"
    found = ssh(both.ip, f"command -v {tools} | wc -l; huggingface-cli version", password=DEFAULT).splitlines()
    assert found[0] == str(len(tools.split()))
    assert "version: 2.4.0" in " ".join(found[1:])


def test_default_password_prints_a_warning(both):
    assert "WARNING: this container accepts the default password, which is public." in both.logs
    assert "jupyter: set JUPYTER_PASSWORD_FILE" in both.logs
    assert "ssh: set SSH_ROOT_PASSWORD_FILE" in both.logs
    assert DEFAULT not in both.logs


def test_each_container_has_its_own_host_keys(both, hf_dev):
    inside = both.exec("sh", "-c", "ls /etc/ssh").stdout
    assert "ssh_host_ed25519_key" in inside
    listed = both.engine.docker("run", "--rm", "--network", "none", "--entrypoint", "ls", hf_dev, "/etc/ssh").stdout
    assert "ssh_host" not in listed


def test_cache_is_in_the_workspace_and_offline_by_default(shared_engine, hf_dev):
    code = (
        "from huggingface_hub import constants as c; from transformers.utils import hub as u;"
        "print(c.HF_HUB_CACHE, c.HF_HUB_OFFLINE, u.is_offline_mode())"
    )
    run = ("run", "--rm", "--network", "none")
    offline = shared_engine.docker(*run, hf_dev, "python", "-c", code).stdout
    assert offline == "/workspace/.cache/huggingface/hub True True\n"
    online = shared_engine.docker(*run, "--env", "HF_HUB_OFFLINE=0", hf_dev, "python", "-c", code).stdout
    assert online == "/workspace/.cache/huggingface/hub False False\n"


def test_jupyter_only_with_a_password_from_a_file(shared_engine, network, hf_dev):
    options = ("--env", "JUPYTER_PASSWORD_FILE=/run/jupyter-password", "--env", "JUPYTER_PASSWORD=not this one")
    command = ("jupyter-lab", "--ServerApp.port=9999", "--ServerApp.base_url=/lab-one/")
    script = 'echo of-my-own > /run/jupyter-password; exec tini -- llmstack-entrypoint "$@"'
    wrapped = ("-c", script, "sh", *command)
    options += ("--env", "REFUSE_DEFAULT_PASSWORD=1", "--entrypoint", "sh")
    with running(shared_engine, network, hf_dev, *wrapped, options=options) as container:
        # The health check uses the port and base_url.
        container.wait_healthy()
        assert "WARNING: this container" not in container.logs
        assert container.exec("sh", "-c", "ls /etc/ssh").stdout.count("ssh_host") == 0
        browser = Browser(f"{container.ip}:9999")
        browser.root += "/lab-one"
        assert browser.log_in(DEFAULT) == 403
        browser = Browser(f"{container.ip}:9999")
        browser.root += "/lab-one"
        assert browser.log_in("of-my-own") == 200
        assert "of-my-own" not in browser.run("import os; print(dict(os.environ))")


def test_passwords_from_the_environment_and_a_key_for_ssh(shared_engine, network, hf_dev, ssh, tmp_path):
    key = tmp_path / "key"
    subprocess.run([need("ssh-keygen", "openssh-client"), "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    options = (
        *("--env", "JUPYTER_PASSWORD=of-my-own"),
        *("--env", "SSH_KEY_ONLY=1"),
        *("--env", f"SSH_AUTHORIZED_KEYS={key.with_suffix('.pub').read_text().strip()}"),
    )
    with running(shared_engine, network, hf_dev, options=options) as container:
        container.wait_healthy()
        assert "WARNING: this container" not in container.logs
        assert ssh(container.ip, "true", password=DEFAULT) is DENIED
        variables = ssh(container.ip, "env", key=key)
        assert "HF_HOME=" in variables
        assert "of-my-own" not in variables
        assert Browser(f"{container.ip}:8888").log_in("of-my-own") == 200


def test_ssh_sessions_get_the_variables_unchanged_and_no_secret(shared_engine, network, hf_dev, ssh):
    passed = {
        "TOKENIZERS_PARALLELISM": "false",
        "MONKEY_MODE": "on",
        "MAX_NEW_TOKENS": "8",
        "HASH": "a #b # c",
        "QUOTES": """it's "quoted" \\ and \\\\ $HOME `x` %h""",
        "SPACES": "  two  ",
        "EMPTY": "",
        "UNICODE": "模型",
        "no_proxy": "inside.site",
        "http_proxy": "http://proxy.site:3128",
        "PINNED": "git+https://git.site/repo@v1",
    }
    left_out = {
        "HTTPS_PROXY": "http://user:hush@proxy.site:3128",
        "ftp_proxy": "user:hush@proxy.site:3128",
        "PIP_INDEX_URL": "https://user:hush@pip.site/simple",
        "HF_TOKEN": "hush",
        "PGPASSWORD": "hush",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "REFRESH_TOKENS": "hush",
        "SSHPASS": "hush",
        "TWO_LINES": "a\nb",
    }
    options = [part for name, value in {**passed, **left_out}.items() for part in ("--env", f"{name}={value}")]
    with running(shared_engine, network, hf_dev, options=tuple(options)) as container:
        container.wait_healthy()
        output = ssh(container.ip, "env -0", password=DEFAULT)
        variables = dict(entry.split("=", 1) for entry in output.split("\0") if entry)
        assert {name: variables.get(name) for name in passed} == passed
        assert not left_out.keys() & variables.keys()
        assert "hush" not in output + container.logs
        reported = (
            "HTTPS_PROXY (contains credentials), PIP_INDEX_URL (contains credentials), TWO_LINES (contains a line"
        )
        assert f"SSH sessions do not get {reported}" in container.logs


def test_ssh_password_replaces_the_default(shared_engine, network, hf_dev, ssh):
    options = ("--env", "SSH_ROOT_PASSWORD=of-my-own")
    with running(shared_engine, network, hf_dev, options=options) as container:
        container.wait_healthy()
        assert "jupyter: set" in container.logs
        assert "ssh: set" not in container.logs
        assert ssh(container.ip, "true", password=DEFAULT) is DENIED
        assert ssh(container.ip, "id -u", password="of-my-own") == "0\n"


@pytest.mark.parametrize(
    ("variables", "cause"),
    [
        (["REFUSE_DEFAULT_PASSWORD=1"], "the default password is accepted by jupyter, ssh"),
        (["REFUSE_DEFAULT_PASSWORD=1", "JUPYTER_PASSWORD=x"], "the default password is accepted by ssh"),
        (["JUPYTER_PASSWORD="], "JUPYTER_PASSWORD is empty"),
        (["JUPYTER_PASSWORD_FILE=/no/such"], "/no/such: cannot be read"),
        (["SSH_KEY_ONLY=1"], "there is no key"),
    ],
)
def test_invalid_or_unsafe_setting_prevents_the_start(shared_engine, network, hf_dev, variables, cause):
    options = tuple(part for variable in variables for part in ("--env", variable))
    with running(shared_engine, network, hf_dev, options=options) as container:
        assert container.wait_ended() == 78
        assert cause in container.logs


def test_any_uid_runs_jupyter(shared_engine, network, hf_dev):
    with running(shared_engine, network, hf_dev, options=("--user", "1000:100")) as container:
        container.wait_healthy()
        assert "sshd needs root" in container.logs
        browser = Browser(f"{container.ip}:8888")
        assert browser.log_in(DEFAULT) == 200
        assert (
            browser.run("import os; print(os.getuid(), os.access(os.path.expanduser('~'), os.W_OK))") == "1000 True\n"
        )


def test_jupyter_started_by_another_command_has_no_default_password(shared_engine, hf_dev):
    def configured(*options):
        command = ["run", "--rm", "--network", "none", *options, hf_dev, "sh", "-c", "jupyter-lab --show-config-json"]
        done = shared_engine.docker(*command)
        assert "WARNING" not in done.stderr
        # The log precedes the JSON document.
        return json.loads(done.stdout[done.stdout.index("{") :])

    found = configured("-e", "REFUSE_DEFAULT_PASSWORD=1")
    assert found["ServerApp"]["ip"] == "0.0.0.0"
    assert "PasswordIdentityProvider" not in found
    assert "hashed_password" in configured("-e", "JUPYTER_PASSWORD=mine")["PasswordIdentityProvider"]


def test_another_command_starts_no_service(shared_engine, hf_dev):
    done = shared_engine.docker(
        "run", "--rm", "--network", "none", "--env", "REFUSE_DEFAULT_PASSWORD=1", hf_dev, "echo", "only this"
    )
    assert (done.stdout, done.stderr) == ("only this\n", "")


@pytest.mark.parametrize("name", ["hf:cpu", "hf-dev:cpu"])
def test_image_contains_no_password_token_or_build_setting(shared_engine, hf_dev, name):
    assert hf_dev
    metadata = (
        shared_engine.docker("history", "--no-trunc", name).stdout
        + shared_engine.docker("image", "inspect", name).stdout
    )
    assert DEFAULT not in metadata
    assert "HF_TOKEN" not in metadata
    assert "_proxy" not in metadata.lower()
    assert "PIP_INDEX_URL" not in metadata
    [config] = json.loads(shared_engine.docker("image", "inspect", name).stdout)
    variables = dict(variable.split("=", 1) for variable in config["Config"]["Env"])
    assert not [key for key in variables if "PASSWORD" in key or "TOKEN" in key]


def test_no_file_contains_the_default_password(shared_engine, hf_dev):
    """Files of the build context are searched in the tests of the recipes."""
    search = ("grep", "-rIl", "--exclude-dir=site-packages", "--exclude-dir=proc", "--exclude-dir=sys", DEFAULT, "/")
    done = shared_engine.docker("run", "--rm", "--network", "none", hf_dev, *search, check=False)
    assert (done.returncode, done.stdout) == (1, "")
