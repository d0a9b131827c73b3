"""Health check: each service that the entrypoint set up answers. With any other command, always healthy."""

import json
import os
import socket
import ssl
import sys
import urllib.request
from pathlib import Path

state = Path("/run/llmstack") / str(os.getuid())
services = (state / "services").read_text(encoding="utf-8").split() if (state / "services").exists() else []

if "jupyter" in services:
    # Jupyter writes its port, base_url and TLS setting to this file.
    servers = sorted((state / "runtime").glob("jpserver-*.json"), key=lambda path: path.stat().st_mtime)
    if not servers:
        sys.exit("Jupyter is not started yet")
    server = json.loads(servers[-1].read_text(encoding="utf-8"))
    scheme = "https" if server.get("secure") else "http"
    url = f"{scheme}://127.0.0.1:{server['port']}{server['base_url']}api"
    # The certificate is valid for the external name of this container.
    context = ssl._create_unverified_context()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    with opener.open(url, timeout=5) as response:
        print(f"jupyter {response.status}")

if "ssh" in services:
    with socket.create_connection(("127.0.0.1", 22), timeout=5) as connection:
        print(connection.recv(80).decode(errors="replace").strip())
