"""From Meta's LLaMA checkpoints to a Hugging Face folder; the only package that imports torch, and lazily.

source       where the files of a checkpoint lie
params       what params.json tells, and the version
checkpoint   reading the consolidated files
weights      names, shapes and order of the tensors on either side
tokenizer    both kinds of tokenizer.model: sentencepiece_bpe, tiktoken_bpe
config       config.json and generation_config.json
plan         looking at all of it, writing nothing
convert      carrying the plan out: safetensors_files, staging
"""
