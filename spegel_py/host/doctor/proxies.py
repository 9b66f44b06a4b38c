"""Check that containerd asks its mirrors without an HTTP proxy, by the rules of Go. Pure.

The rules are those of golang.org/x/net/http/httpproxy, as in net/http, except for names that are
not ASCII.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from spegel_py.host.doctor.facts import Facts, ProxySettings
from spegel_py.host.doctor.findings import Finding, error, ok

CHECK = "proxy"

PORTS = {"http": "80", "https": "443"}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def settings(environment: Mapping[str, str], *, source: str, unit: str) -> ProxySettings:
    """Return the proxies that a Go program takes from its environment.

    Upper case has priority, and empty means unset.
    """

    def value(name: str) -> str:
        return environment.get(name) or environment.get(name.lower()) or ""

    return ProxySettings(
        http=value("HTTP_PROXY"),
        https=value("HTTPS_PROXY"),
        exempt=value("NO_PROXY"),
        source=source,
        unit=unit,
    )


def proxy_for(found: ProxySettings, url: str) -> str:
    """Return the proxy for a URL; empty for none."""
    parts = urlsplit(url)
    proxy = {"http": found.http, "https": found.https}.get(parts.scheme, "")
    host = parts.hostname or ""
    return (
        proxy
        if proxy and not _is_exempt(found.exempt, host, str(parts.port or PORTS[parts.scheme]))
        else ""
    )


def check_proxy(facts: Facts) -> list[Finding]:
    """Check that containerd asks the mirror directly.

    A proxy would connect to a host in the proxy's own network.
    """
    found = facts.proxy
    if not isinstance(found, ProxySettings):
        return []
    if not (found.http or found.https):
        return [ok(CHECK, f"none in containerd's environment ({found.source})")]
    files = facts.hosts if isinstance(facts.hosts, tuple) else ()
    mirrors = dict.fromkeys(
        mirror.url for file in files for mirror in file.mirrors if mirror.is_spegel
    )
    proxied = [url for url in mirrors if proxy_for(found, url)]
    if proxied:
        through = _without_password(proxy_for(found, proxied[0]))
        text = (
            f"containerd asks {', '.join(proxied)} through the proxy {through} ({found.source}): "
            "its requests do not "
            "reach this node"
        )
        return [
            error(CHECK, text, _exempting(found, [urlsplit(url).hostname or "" for url in proxied]))
        ]
    direct = f", not used for {', '.join(mirrors)}" if mirrors else ""
    return [ok(CHECK, f"{_without_password(found.http or found.https)} ({found.source}){direct}")]


def _exempting(found: ProxySettings, hosts: list[str]) -> str:
    """Return the environment line that exempts these hosts from the proxy, and its place."""
    value = ",".join([*filter(None, [found.exempt.strip().rstrip(",")]), *dict.fromkeys(hosts)])
    service = found.unit.removesuffix(".service")
    again = f"then systemctl daemon-reload && systemctl restart {service}"
    if service.startswith(("k3s", "rke2")):
        # Their containerd gets CONTAINERD_* in place of the variables without that prefix.
        is_k3s = service.startswith("k3s")
        file = f"/etc/systemd/system/{service}.service.env" if is_k3s else f"/etc/default/{service}"
        return f"put CONTAINERD_NO_PROXY={value} into {file}; {again}"
    return (
        f'put Environment="NO_PROXY={value}" below [Service] into '
        f"/etc/systemd/system/{service}.service.d/"
        f"spegel-py.conf (or add the host where NO_PROXY is set now); {again}"
    )


def _without_password(proxy: str) -> str:
    scheme, separator, rest = proxy.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


# The rules of Go


def _is_exempt(rules: str, host: str, port: str) -> bool:
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    name = host.strip().lower()
    return any(_matches(rule.strip().lower(), name, port, address) for rule in rules.split(","))


def _matches(rule: str, name: str, port: str, address: Address | None) -> bool:
    """Return True if one part of NO_PROXY matches this host.

    A part is `*`, a network, or an address or domain, with or without a port.
    """
    if not rule or rule == "*":
        return rule == "*"
    if (network := _network(rule)) is not None:
        return address is not None and address.version == network.version and address in network
    split = _split(rule)
    wanted, wanted_port = split or (rule, "")
    if not wanted or wanted_port not in ("", port):
        return False
    if (exact := _address(wanted)) is not None:
        return exact == address
    domain = wanted.removeprefix("*") if wanted.startswith("*.") else wanted
    return (
        name.endswith(domain)
        if domain.startswith(".")
        else name == domain or name.endswith(f".{domain}")
    )


def _address(text: str) -> Address | None:
    if "%" in text:
        return None
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if not text.rpartition("/")[2].isdecimal() or "/" not in text:
        return None
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    mapped = found.network_address.ipv4_mapped if isinstance(found, ipaddress.IPv6Network) else None
    return found if mapped is None else ipaddress.IPv4Network((mapped, found.prefixlen - 96))


def _split(text: str) -> tuple[str, str] | None:
    """Return host and port as net.SplitHostPort does; None without exactly one port."""
    if text.startswith("["):
        host, closing, port = text[1:].partition("]")
        return (
            (host, port[1:]) if closing and port.startswith(":") and ":" not in port[1:] else None
        )
    host, colon, port = text.rpartition(":")
    return (host, port) if colon and ":" not in host else None
