"""The container's health check: the hub answers on port 8080, with or without TLS, and has listed its registry."""

import http.client
import ssl
import sys

# The certificate has the name that clients use, not localhost.
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
