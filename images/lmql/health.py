"""The container's health: one of its two servers takes connections. Both speak websockets, so a GET tells nothing."""

import os
import socket
import sys

for port in (int(os.environ.get("PORT", "3000")), 8080):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=3):
            print(f"port {port} takes connections")
            sys.exit(0)
    except OSError as error:
        print(f"port {port}: {error}")
sys.exit(1)
