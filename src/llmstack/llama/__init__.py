"""Convert Meta's LLaMA checkpoints to the Hugging Face format. The only package that imports torch, and lazily.

command            the command line
conversion_plan    inspect a checkpoint and plan its conversion, without writing
checkpoint_files   find the files of a checkpoint
params             params.json, and the version
checkpoint         read the consolidated files
weights            names, shapes and order of the tensors on both sides
tokenizer          both kinds of tokenizer.model: sentencepiece_bpe, tiktoken_bpe, behind vocabulary
model_config       config.json and generation_config.json
convert            execute a plan: safetensors_files, staging
"""
