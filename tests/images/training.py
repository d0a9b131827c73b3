"""A training step on a tiny random model, run in an image's Python."""

TRAIN = """
import datasets, deepspeed, torch, transformers, trl
torch.manual_seed(1)
config = transformers.LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
)
model = transformers.LlamaForCausalLM(config)
rows = datasets.Dataset.from_dict({"input_ids": [[1, 2, 3, 4]] * 4, "labels": [[1, 2, 3, 4]] * 4})
options = transformers.TrainingArguments(output_dir="out", max_steps=1, report_to=[], use_cpu=True)
before = model.lm_head.weight.detach().clone()
transformers.Trainer(model=model, args=options, train_dataset=rows).train()
assert not torch.equal(before, model.lm_head.weight)
print("trained with", transformers.__version__, deepspeed.__version__, trl.SFTTrainer.__name__)
"""
