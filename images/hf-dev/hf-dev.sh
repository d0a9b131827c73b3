#!/bin/sh
# Run JupyterLab (with the arguments) and, as root, sshd.
set -eu
if [ "$(id -u)" -eq 0 ]; then
  /usr/sbin/sshd -D -e &
fi
exec jupyter-lab "$@"
