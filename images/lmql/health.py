"""Health check: one of the two servers accepts connections. Both speak WebSocket, so it sends no GET request."""

import os
import socket
import sys

for port in (int(os.environ.get("PORT", "3000")), 8080):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=3):
            print(f"port {port} accepts connections")
            sys.exit(0)
    except OSError as error:
        print(f"port {port}: {error}")
sys.exit(1)
