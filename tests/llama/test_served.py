"""transformers loads real weights from llmstack's hub, and gives the same embedding as with the original files."""

import json

from tests.support.carried import carry
from tests.support.serving import minilm, repository, run_client, serving

REPO_ID = "sentence-transformers/all-MiniLM-L6-v2"
EMBED = """
import json, sys, torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

def embed(model):
    tokens = AutoTokenizer.from_pretrained(model)("Carried over the gap.", return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(model)(**tokens).last_hidden_state.mean(dim=1)

served, original = map(embed, sys.argv[1:])
size = AutoConfig.from_pretrained(sys.argv[1]).hidden_size
print(json.dumps([size, torch.equal(served, original), served.norm().item()]))
"""


def test_a_model_is_loaded_from_the_hub(registry, tmp_path):
    model = minilm()
    files = {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    namespace = registry.namespace()
    carry(repository(namespace), REPO_ID.replace("/", "--"), files, repo_id=REPO_ID)
    with serving(tmp_path, namespace) as hub:
        printed = run_client(None, hub.url, tmp_path / "home", "-c", EMBED, REPO_ID, str(model))
        assert "model.safetensors" in hub.output or "pytorch_model.bin" in hub.output
    hidden_size, same, norm = json.loads(printed.splitlines()[-1])
    assert (hidden_size, same) == (384, True)
    assert norm > 0
