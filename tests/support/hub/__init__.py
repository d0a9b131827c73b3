"""A loopback Hugging Face Hub over real HTTP; tests/rig/test_hub.py checks it with the real huggingface_hub.

with Hub() as hub:
    repo = hub.add_repo("org/tiny", {"config.json": b"{}", "model.safetensors": Path("big.bin")}, license="mit")
    hub.fault("*/model.safetensors", drop_after=1000, times=2)
    ...  # HF_ENDPOINT=hub.url
    repo.commit({"config.json": b'{"a": 1}'})
    hub.log.files("*.safetensors")
"""

from tests.support.hub.content import Commit, Generated, HubFile, Repo, git_oid
from tests.support.hub.faults import Fault
from tests.support.hub.log import Logged, RequestLog
from tests.support.hub.server import Account, Hub

__all__ = ["Account", "Commit", "Fault", "Generated", "Hub", "HubFile", "Logged", "Repo", "RequestLog", "git_oid"]
