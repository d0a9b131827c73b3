"""A random llama of two layers with a tokenizer of bytes, made in an image's Python."""

# Write the model to the directory that the environment variable MODEL names, and print the tokens that follow `PROMPT`.
# The weights are large, so that no two tokens are nearly equal.
PROMPT = "abc"
MAKE_MODEL = """
import os, torch, transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
folder = os.environ["MODEL"]
torch.manual_seed(1)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
vocabulary = {token: rank for rank, token in enumerate(["<s>", "</s>", *alphabet])}
tokenizer = Tokenizer(models.BPE(vocabulary, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
special = dict(bos_token="<s>", eos_token="</s>", pad_token="</s>")
fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
fast.save_pretrained(folder)
config = transformers.LlamaConfig(
    vocab_size=len(vocabulary), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=256, bos_token_id=0, eos_token_id=1, initializer_range=0.3,
)
model = transformers.LlamaForCausalLM(config).eval()
model.save_pretrained(folder)
prompt = fast("abc", add_special_tokens=False, return_tensors="pt").input_ids
made = model.generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=1)
print("tokens:", made[0, prompt.shape[1] :].tolist())
"""
