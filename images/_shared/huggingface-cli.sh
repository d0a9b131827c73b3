#!/bin/sh
# Alias of `hf`: older scripts call the command huggingface-cli.
exec hf "$@"
