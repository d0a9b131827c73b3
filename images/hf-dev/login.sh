# shellcheck shell=sh
# llmstack-entrypoint sources this file: set up the logins for the services that the command starts.
case "${1:-} ${2:-}" in
  hf-dev\ *) services="jupyter ssh" ;;
  jupyter-lab\ * | jupyter-server\ * | jupyter\ lab | jupyter\ server) services=jupyter ;;
  *) services="" ;;
esac
if [ "$(id -u)" -ne 0 ] && [ "$services" = "jupyter ssh" ]; then
  echo "hf-dev: sshd needs root: starting only JupyterLab" >&2
  services=jupyter
fi
# If another command starts Jupyter, it uses the configured password; without one, Jupyter generates a token.
if [ -n "$services" ] || [ -n "${JUPYTER_PASSWORD_FILE:-}${JUPYTER_PASSWORD:-}" ]; then
  LLMSTACK_STATE="/run/llmstack/$(id -u)"
  # Split the list of services into words.
  # shellcheck disable=SC2086
  /opt/jupyter/bin/python /usr/local/lib/llmstack/login.py "$LLMSTACK_STATE" ${services:-jupyter}
  # Another command: the health check ignores Jupyter.
  [ -n "$services" ] || : > "$LLMSTACK_STATE/services"
  export JUPYTER_CONFIG_PATH="$LLMSTACK_STATE${JUPYTER_CONFIG_PATH:+:$JUPYTER_CONFIG_PATH}"
  export JUPYTER_RUNTIME_DIR="$LLMSTACK_STATE/runtime"
  unset LLMSTACK_STATE
fi
unset services JUPYTER_PASSWORD SSH_ROOT_PASSWORD
