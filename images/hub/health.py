"""The container's health: the hub answers on port 8080, with TLS or without, and has listed what is there."""

import http.client
import ssl
import sys

# The certificate is for the name by which clients know the hub.
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE

for connection in (
    http.client.HTTPConnection("localhost", 8080, timeout=2),
    http.client.HTTPSConnection("localhost", 8080, timeout=2, context=context),
):
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        print(f"port {connection.port}: {error}")
        continue
    print(answer.status, answer.read(1000).decode(errors="replace").strip())
    if answer.status == http.client.OK:
        sys.exit(0)
sys.exit(1)
