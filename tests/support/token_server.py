"""A token server of a private registry, for one user: `python -m tests.support.token_server`.

It speaks the protocol of the distribution project's token authentication, and signs with a key that
the registry trusts.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import sys
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

SERVICE, ISSUER = "private", "tests"
KEY, CERTIFICATE = "token.key", "token.crt"


def make_key(folder: Path) -> None:
    """Write a key and its certificate."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / KEY).write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / CERTIFICATE).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


class TokenServer(ThreadingHTTPServer):
    """Gives a token for each requested scope to the user, and to nobody else."""

    def __init__(self, folder: Path, address: str, user: str, seconds: int) -> None:
        host, _, port = address.rpartition(":")
        super().__init__((host, int(port)), _Handler)
        self.authorization = "Basic " + base64.b64encode(user.encode()).decode()
        self.seconds = seconds
        self._key = serialization.load_pem_private_key((folder / KEY).read_bytes(), None)
        pem = (folder / CERTIFICATE).read_bytes()
        certificate = x509.load_pem_x509_certificate(pem)
        self._chain = [
            base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
        ]

    def token(self, scopes: list[str]) -> str:
        """Return a signed token."""
        assert isinstance(self._key, rsa.RSAPrivateKey)
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        claims = {
            "iss": ISSUER, "sub": "user", "aud": SERVICE, "exp": now + self.seconds,
            "nbf": now - 10, "iat": now, "jti": uuid.uuid4().hex, "access": access,
        }  # fmt: skip
        head = {"typ": "JWT", "alg": "RS256", "x5c": self._chain}
        text = b".".join(_encoded(json.dumps(each).encode()) for each in (head, claims))
        signature = self._key.sign(text, padding.PKCS1v15(), hashes.SHA256())
        return (text + b"." + _encoded(signature)).decode()


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class _Handler(BaseHTTPRequestHandler):
    server: TokenServer

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        parts = urlsplit(self.path)
        scopes = parse_qs(parts.query).get("scope", [])
        is_known = given == self.server.authorization
        who = hashlib.sha256(given.encode()).hexdigest()[:8] if given else "nobody"
        print("token", who, "given" if is_known else "refused", scopes, flush=True)
        if parts.path == "/":
            self._answer(200, {})
        elif not is_known:
            self._answer(401, {})
        else:
            self._answer(200, {"token": self.server.token(scopes)})

    def do_POST(self) -> None:
        self._answer(405, {})

    def _answer(self, status: int, fields: dict[str, str]) -> None:
        body = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    folder, address, user, seconds = sys.argv[1:]
    TokenServer(Path(folder), address, user, int(seconds)).serve_forever()
