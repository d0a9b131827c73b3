"""From Meta's LLaMA checkpoints to a Hugging Face folder; the only package that imports torch, and lazily.

source       where the files of a checkpoint lie
params       what params.json tells, and the version
checkpoint   reading the consolidated files
weights      names, shapes and order of the tensors on either side
tokenizer    both kinds of tokenizer.model
config       config.json and generation_config.json
safetensors_files, staging   writing, so that nothing unfinished looks finished
convert      all of it, in order
"""
