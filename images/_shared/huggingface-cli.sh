#!/bin/sh
# The old name of the Hugging Face command, which scripts still use.
exec hf "$@"
