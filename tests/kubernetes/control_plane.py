"""The control plane: etcd, API server, controllers, scheduler and CoreDNS in one namespace."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import json
import secrets
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.kubernetes import addresses
from tests.kubernetes.api import Api
from tests.kubernetes.built import Built
from tests.support.namespaces import Namespace
from tests.support.processes import Process

PORT = 6443

_COREFILE = """\
.:53 {{
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    cache 5
}}
"""

_GROUPS = {"admin": "system:masters", "coredns": "system:masters"}
"""Groups of users other than nodes. Kubernetes knows the system's users by their names."""

_KINDS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns")


class ControlPlane:
    """One control plane, with keys and tokens of its own."""

    def __init__(
        self, *, folder: Path, namespace: Namespace, built: Built, nodes: Sequence[str]
    ) -> None:
        folder.mkdir()
        self.folder = folder
        self.namespace = namespace
        self._built = built
        self._certificate, key = _certificate(namespace.address)
        self._tokens = {user: secrets.token_hex(16) for user in _users(nodes)}
        for name, text in {
            "api.crt": self._certificate,
            "api.key": key,
            "accounts.key": _pem(ec.generate_private_key(ec.SECP256R1())),
            "tokens.csv": "".join(
                f"{token},{user},{user},{_group(user)}\n" for user, token in self._tokens.items()
            ),
            "Corefile": _COREFILE.format(kubeconfig=self.kubeconfig("coredns")),
        }.items():
            (folder / name).write_text(text)
        self.api = Api(
            namespace=namespace,
            port=PORT,
            certificate=self._certificate,
            token=self._tokens["admin"],
        )
        self._processes = {
            name: Process(
                command=[*namespace.prefix, *self._command(name)], log=folder / f"{name}.log"
            )
            for name in _KINDS
        }

    async def start(self) -> None:
        """Start everything and wait until the API is ready and the other programs run."""
        async with asyncio.TaskGroup() as group:
            for name in ("etcd", "kube-apiserver"):
                group.create_task(self._processes[name].start(self.api.is_ready, deadline=90.0))
        async with asyncio.TaskGroup() as group:
            for name in _KINDS[2:]:
                group.create_task(
                    self._processes[name].start(self._is_running(name), deadline=60.0)
                )

    async def end(self) -> None:
        """Kill everything; its data is thrown away anyway."""
        ends = (process.end(signal.SIGKILL) for process in self._processes.values())
        await asyncio.gather(*ends)

    def process(self, name: str) -> Process:
        """Return one program's process, as in `process("kube-scheduler")`."""
        return self._processes[name]

    def kubeconfig(self, user: str) -> Path:
        """Write the kubeconfig file of a user and return its path."""
        cluster = {
            "server": f"https://{self.namespace.address}:{PORT}",
            "certificate-authority-data": base64.b64encode(self._certificate.encode()).decode(),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path = self.folder / f"{user.replace(':', '-')}.kubeconfig"
        path.write_text(json.dumps(document))
        path.chmod(0o600)  # Helm warns if others may read it
        return path

    def _is_running(self, name: str) -> Callable[[], Awaitable[bool]]:
        """Return the condition that a program has begun its work."""
        port = {"kube-controller-manager": 10257, "kube-scheduler": 10259, "coredns": 8181}[name]

        async def accepts() -> bool:
            try:
                (await self.namespace.connect("127.0.0.1", port)).close()
            except OSError:
                return False
            return True

        return accepts

    def _command(self, name: str) -> list[str]:
        folder, kube = self.folder, str(self._built.kube)
        local = [
            "--bind-address=127.0.0.1",
            f"--cert-dir={folder / name}",
            "--leader-elect=false",
            "--v=1",
        ]
        match name:
            case "etcd":
                return [
                    *(
                        kube,
                        name,
                        f"--data-dir={folder / name}",
                        "--unsafe-no-fsync",
                        "--log-level=warn",
                    ),
                    *(
                        "--listen-client-urls=http://127.0.0.1:2379",
                        "--advertise-client-urls=http://127.0.0.1:2379",
                    ),
                    "--listen-peer-urls=http://127.0.0.1:2380",
                ]
            case "kube-apiserver":
                return [
                    *(
                        kube,
                        name,
                        "--etcd-servers=http://127.0.0.1:2379",
                        "--v=1",
                        "--profiling=false",
                    ),
                    *(
                        f"--advertise-address={self.namespace.address}",
                        f"--bind-address={self.namespace.address}",
                    ),
                    *(f"--secure-port={PORT}", f"--token-auth-file={folder / 'tokens.csv'}"),
                    *(
                        f"--tls-cert-file={folder / 'api.crt'}",
                        f"--tls-private-key-file={folder / 'api.key'}",
                    ),
                    *("--authorization-mode=Node,RBAC", "--allow-privileged=true"),
                    f"--service-cluster-ip-range={addresses.SERVICES}",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    f"--service-account-key-file={folder / 'accounts.key'}",
                    f"--service-account-signing-key-file={folder / 'accounts.key'}",
                    "--kubelet-preferred-address-types=InternalIP",
                ]
            case "kube-controller-manager":
                return [
                    *(kube, name, *local, f"--kubeconfig={self.kubeconfig(f'system:{name}')}"),
                    f"--service-account-private-key-file={folder / 'accounts.key'}",
                    f"--root-ca-file={folder / 'api.crt'}",
                    # The default is in /usr/libexec, where it would make a folder.
                    f"--flex-volume-plugin-dir={folder / 'volume-plugins'}",
                    # It makes 30 accounts at its start. The default is 20 requests per second.
                    *("--kube-api-qps=200", "--kube-api-burst=400"),
                    # Its own user may not do most of its work.
                    "--use-service-account-credentials=true",
                ]
            case "kube-scheduler":
                return [kube, name, *local, f"--kubeconfig={self.kubeconfig(f'system:{name}')}"]
        return [str(self._built.coredns), "-conf", str(folder / "Corefile")]


def _users(nodes: Sequence[str]) -> list[str]:
    system = [
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
        *(f"node:{name}" for name in nodes),
    ]
    return [*_GROUPS, *(f"system:{name}" for name in system)]


def _group(user: str) -> str:
    return "system:nodes" if user.startswith("system:node:") else _GROUPS.get(user, "")


def _certificate(address: str) -> tuple[str, str]:
    """Return the API server's certificate, which has signed itself, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    addresses_ = [ipaddress.ip_address(each) for each in (address, addresses.FIRST_SERVICE)]
    names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [*map(x509.IPAddress, addresses_), *map(x509.DNSName, names)]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), _pem(key)


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()
