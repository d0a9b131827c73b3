# shellcheck shell=sh
# Sourced by llmstack-entrypoint: sets up the logins of what the command starts.
case "${1:-} ${2:-}" in
  hf-dev\ *) services="jupyter ssh" ;;
  jupyter-lab\ * | jupyter-server\ * | jupyter\ lab | jupyter\ server) services=jupyter ;;
  *) services="" ;;
esac
if [ "$(id -u)" -ne 0 ] && [ "$services" = "jupyter ssh" ]; then
  echo "hf-dev: sshd needs root, so only JupyterLab is started" >&2
  services=jupyter
fi
# A Jupyter that something else starts takes the password that was set; with none it makes a token of its own.
if [ -n "$services" ] || [ -n "${JUPYTER_PASSWORD_FILE:-}${JUPYTER_PASSWORD:-}" ]; then
  LLMSTACK_STATE="/run/llmstack/$(id -u)"
  # Word by word: a list of services.
  # shellcheck disable=SC2086
  /opt/jupyter/bin/python /usr/local/lib/llmstack/login.py "$LLMSTACK_STATE" ${services:-jupyter}
  # Whether that runs is not this container's health.
  [ -n "$services" ] || : > "$LLMSTACK_STATE/services"
  export JUPYTER_CONFIG_PATH="$LLMSTACK_STATE${JUPYTER_CONFIG_PATH:+:$JUPYTER_CONFIG_PATH}"
  export JUPYTER_RUNTIME_DIR="$LLMSTACK_STATE/runtime"
  unset LLMSTACK_STATE
fi
unset services JUPYTER_PASSWORD SSH_ROOT_PASSWORD
