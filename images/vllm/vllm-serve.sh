#!/bin/sh
# vLLM's server as its users here know it: N_GPUS and GPU_MEM_USAGE; the model and every other flag are passed through,
# and win where they say something else.
set -eu
if [ -n "${GPU_MEM_USAGE:-}" ]; then
  set -- --gpu-memory-utilization "$GPU_MEM_USAGE" "$@"
fi
exec vllm serve --host 0.0.0.0 --port "${PORT:-8000}" --tensor-parallel-size "${N_GPUS:-1}" "$@"
