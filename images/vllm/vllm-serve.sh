#!/bin/sh
# Start vLLM's server with N_GPUS and GPU_MEM_USAGE. The arguments (model and flags) follow and take precedence.
set -eu
case "${VLLM_API_KEY:-} $*" in
  " "*--api-key*) ;;
  " "*) echo "vllm-serve: WARNING: every client can use the server: set VLLM_API_KEY, or add --api-key KEY" >&2 ;;
esac
# vLLM refuses --served-model-name unless the model is its first argument.
model=
case "${1:-}" in
  "" | -*) ;;
  *) model=$1; shift ;;
esac
if [ -n "${GPU_MEM_USAGE:-}" ]; then
  set -- --gpu-memory-utilization "$GPU_MEM_USAGE" "$@"
fi
set -- --host 0.0.0.0 --port "${PORT:-8000}" --tensor-parallel-size "${N_GPUS:-1}" "$@"
exec vllm serve ${model:+"$model"} "$@"
