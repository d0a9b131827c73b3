"""A token server on loopback: tokens as in distribution's token authentication specification (RFC 7519)."""

from __future__ import annotations

import base64
import json
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

import jwt
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from tests.support.webserver import Request, Response, WebServer

# docker-registry 2.8 accepts tokens for a minute longer, so a shorter lifetime has no effect.
LIFETIME = 300
REFRESH_TOKEN = "rig-identity-token"


class TokenServer:
    """Issues tokens for the requested scopes to one user; `scopes` records the requests.

    Tokens give no permission for the repositories in `refused`, as from Docker Hub for repositories that do not exist.
    Supports GET with Basic credentials and POST with a refresh token (`refresh_token`).
    """

    issuer = "rig-issuer"
    service = "rig-registry"
    refresh_token = REFRESH_TOKEN

    def __init__(self, user: str, password: str) -> None:
        self.scopes: list[list[str]] = []
        self.refused: set[str] = set()
        self._basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._user = user
        self._authority = trustme.CA()
        leaf = self._authority.issue_cert("rig-token-server")
        self._key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
        certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
        self._chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]
        self._server = WebServer(self._answer)

    @property
    def url(self) -> str:
        return self._server.url

    def write_roots(self, path: Path) -> None:
        """Write the certificate that the registry trusts."""
        self._authority.cert_pem.write_to_path(path)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()

    def _answer(self, request: Request) -> Response:
        parameters = parse_qs(request.body.decode()) if request.method == "POST" else request.query
        allowed = (
            parameters.get("refresh_token") == [REFRESH_TOKEN]
            if request.method == "POST"
            else request.headers.get("authorization") == self._basic
        )
        # A client may repeat `scope` or put several into one, with spaces between.
        scopes = [scope for value in parameters.get("scope", []) for scope in value.split()]
        self.scopes.append(scopes)
        if not allowed:
            body = {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]}
            return Response(401, {"Content-Type": "application/json"}, json.dumps(body).encode())
        token = self._token(scopes)
        answer = {"token": token, "access_token": token, "expires_in": LIFETIME}
        return Response(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _token(self, scopes: list[str]) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": self._user,
            "aud": self.service,
            "exp": now + LIFETIME,
            "nbf": now - 10,
            "iat": now,
            "jti": uuid.uuid4().hex,
            "access": [access for scope in scopes if (access := _access(scope))["name"] not in self.refused],
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"x5c": self._chain})  # type: ignore[arg-type]  # its types know only text headers


def _access(scope: str) -> dict[str, Any]:
    resource_type, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return {"type": resource_type, "name": name, "actions": actions.split(",")}
