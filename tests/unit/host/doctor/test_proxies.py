"""Proxies between containerd and its mirrors: Go's rules, the findings, and their sources."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spegel_py.host.doctor import Finding, Level, Subject, environment
from spegel_py.host.doctor.facts import Facts, HostsFile, MirrorHost, ProxySettings, Unknown
from spegel_py.host.doctor.proxies import check_proxy, proxy_for, settings

PROXY = "http://alice:s3cret@proxy.example:3128"
SUBJECT = Subject(
    socket=Path("/run/c.sock"), namespace="k8s.io", content_path=None, registry="", metrics=""
)

# As in the tests of golang.org/x/net/http/httpproxy.
RULES = (
    "foobar.com, .barbaz.net, *.wildcard.io, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:80, "
    "10.0.0.0/30, "
    "2001:db8::52:0:1, [2001:db8::52:0:2]:443, [2001:db8::52:0:3]:80, 2002:db8:a::45/64"
)
DIRECT = (
    *("localhost", "127.0.0.1", "127.0.0.2", "[::1]", "192.168.1.1", "192.168.1.3", "10.0.0.2"),
    *("[2001:db8::52:0:1]", "[2001:db8::52:0:3]", "[2002:db8:a::123]"),
    *("www.barbaz.net", "foobar.com", "www.foobar.com", "nested.wildcard.io", "FOOBAR.com"),
)
PROXIED = (
    *(
        "[::2]",
        "192.168.1.2",
        "192.168.1.4",
        "[2001:db8::52:0:2]",
        "[fe80::424b:c8be:1643:a1b6]",
        "0.0.0.0",
    ),
    *(
        "barbaz.net",
        "foofoobar.com",
        "baz.com",
        "localhost.net",
        "local.localhost",
        "barbarbaz.net",
    ),
    *("wildcard.io", "awildcard.io"),
)


def found(
    exempt: str = "", *, http: str = PROXY, https: str = "", unit: str = "containerd.service"
) -> ProxySettings:
    return ProxySettings(
        http=http, https=https, exempt=exempt, source="environment of process 7", unit=unit
    )


@pytest.mark.parametrize("host", DIRECT)
def test_hosts_that_are_asked_without_the_proxy(host: str) -> None:
    """This machine always, and what NO_PROXY names: hosts, domains, addresses, networks, with a
    port or without.
    """
    assert proxy_for(found(RULES), f"http://{host}") == ""


@pytest.mark.parametrize("host", PROXIED)
def test_hosts_that_are_asked_through_the_proxy(host: str) -> None:
    """A host that is only similar to a rule does not match."""
    assert proxy_for(found(RULES), f"http://{host}") == PROXY


@pytest.mark.parametrize(
    ("rules", "url", "is_proxied"),
    [
        pytest.param("*", "http://10.0.0.5:5000", False, id="all"),
        pytest.param("a,*", "http://mirror:5000", False, id="all, at the end"),
        pytest.param("10.0.0.5:5000", "http://10.0.0.5:5000", False, id="its port"),
        pytest.param("10.0.0.5:30020", "http://10.0.0.5:5000", True, id="another port"),
        pytest.param("10.0.0.5:", "http://10.0.0.5:5000", False, id="an empty port"),
        pytest.param("[fd00::1]", "http://[fd00::1]:5000", True, id="brackets without a port"),
        pytest.param("fd00::1", "http://[fd00::1]:5000", False, id="no brackets"),
        pytest.param("10.0.0.0/255.0.0.0", "http://10.0.0.5:5000", True, id="a mask is no prefix"),
        pytest.param(
            "10.1.2.3/8", "http://10.0.0.5:5000", False, id="a network by one of its hosts"
        ),
        pytest.param("fd00::/8", "http://10.0.0.5:5000", True, id="the other family"),
        pytest.param(" , :80, ", "http://10.0.0.5", True, id="nothing"),
        pytest.param(
            "mirror.local:5000", "http://a.mirror.local:5000", False, id="below, with a port"
        ),
        pytest.param("::ffff:10.0.0.5", "http://10.0.0.5:5000", False, id="mapped"),
        pytest.param("::ffff:10.0.0.0/104", "http://10.0.0.5:5000", False, id="a mapped network"),
        pytest.param("", "https://10.0.0.5:5000", False, id="another scheme"),
    ],
)
def test_rules_that_are_easily_mistaken(rules: str, url: str, is_proxied: bool) -> None:
    """As Go takes them."""
    assert bool(proxy_for(found(rules), url)) is is_proxied


def test_each_scheme_has_its_proxy() -> None:
    """HTTP_PROXY is for http alone, HTTPS_PROXY for https."""
    both = found(http="http://one:1", https="two:2")
    asked = [proxy_for(both, f"{scheme}://10.0.0.5") for scheme in ("http", "https", "ftp")]
    assert asked == ["http://one:1", "two:2", ""]


@pytest.mark.parametrize(
    ("variables", "seen"),
    [
        pytest.param(
            {"HTTP_PROXY": "a", "http_proxy": "b", "no_proxy": "c"},
            ("a", "", "c"),
            id="upper case first",
        ),
        pytest.param({"HTTP_PROXY": "", "http_proxy": "b"}, ("b", "", ""), id="empty is not set"),
        pytest.param({"https_proxy": "b", "Http_Proxy": "c"}, ("", "b", ""), id="no other case"),
    ],
)
def test_the_environment_is_read_as_go_does(
    variables: dict[str, str], seen: tuple[str, ...]
) -> None:
    """Of each variable two spellings count."""
    read = settings(variables, source="", unit="")
    assert (read.http, read.https, read.exempt) == seen


def judged(proxy: ProxySettings | Unknown | None, *urls: str) -> list[Finding]:
    mirrors = tuple(MirrorHost(url, frozenset({"pull"}), is_spegel=True) for url in urls)
    other = MirrorHost("http://cache.example", frozenset({"pull"}))
    hosts = (HostsFile(registry="_default", mirrors=(*mirrors, other)),)
    return check_proxy(Facts(subject=SUBJECT, hosts=hosts, proxy=proxy))


def test_a_mirror_behind_the_proxy_is_an_error_with_the_line_to_add() -> None:
    """The entries of NO_PROXY stay; a password is not shown; other hosts may have a proxy."""
    urls = ("http://10.0.0.5:30020", "http://10.0.0.5:30021", "http://mirror.local:5000")
    [finding] = judged(found("10.96.0.0/12,"), *urls)
    assert (finding.check, finding.level) == ("proxy", Level.ERROR)
    assert finding.text == (
        f"containerd asks {', '.join(urls)} through the proxy http://proxy.example:3128 "
        "(environment of process 7): "
        "its requests do not reach this node"
    )
    assert finding.remedy == (
        'put Environment="NO_PROXY=10.96.0.0/12,10.0.0.5,mirror.local" below [Service] into '
        "/etc/systemd/system/"
        "containerd.service.d/spegel-py.conf (or add the host where NO_PROXY is set now); then "
        "systemctl "
        "daemon-reload && systemctl restart containerd"
    )
    assert "s3cret" not in repr(found())
    line = finding.remedy.partition("NO_PROXY=")[2].partition('"')[0]
    assert [one.level for one in judged(found(line), *urls)] == [Level.OK]


@pytest.mark.parametrize(
    ("unit", "file"),
    [
        ("k3s.service", "/etc/systemd/system/k3s.service.env"),
        ("k3s-agent.service", "/etc/systemd/system/k3s-agent.service.env"),
        ("rke2-server.service", "/etc/default/rke2-server"),
    ],
)
def test_k3s_has_variables_for_its_containerd(unit: str, file: str) -> None:
    """They are in a file beside its unit."""
    [finding] = judged(found(unit=unit), "http://10.0.0.5:5000")
    assert (finding.remedy or "").startswith(
        f"put CONTAINERD_NO_PROXY=10.0.0.5 into {file}; then systemctl"
    )
    assert (finding.remedy or "").endswith(f"systemctl restart {unit.removesuffix('.service')}")


def test_a_proxy_that_is_not_used_is_no_fault() -> None:
    """A mirror on this machine or in NO_PROXY is fine; an unknown environment is not judged."""
    [finding] = judged(found(), "http://127.0.0.1:5000")
    shown = (
        "http://proxy.example:3128 (environment of process 7), not used for http://127.0.0.1:5000"
    )
    assert (finding.level, finding.text) == (Level.OK, shown)
    [finding] = judged(found(http=""))
    assert (finding.level, finding.text) == (
        Level.OK,
        "none in containerd's environment (environment of process 7)",
    )
    assert judged(Unknown("not to be seen")) == judged(None) == []


# Where it is seen

LISTEN = """
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("listens", flush=True)
sys.stdin.read()
"""


@contextmanager
def listening(**variables: str) -> Iterator[Path]:
    """Have another process listen on a socket, with this environment."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.sock"
        command = [sys.executable, "-c", LISTEN, str(path)]
        with subprocess.Popen(
            command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as running:
            assert running.stdout
            assert running.stdout.readline() == b"listens\n"
            yield path
            running.communicate()


def test_the_process_that_listens_is_asked() -> None:
    """The process is found by its socket, under any name."""
    with listening(HTTP_PROXY=PROXY, no_proxy="a,b") as path:
        seen = environment.of_process(path)
    assert isinstance(seen, ProxySettings)
    assert (seen.http, seen.https, seen.exempt) == (PROXY, "", "a,b")
    assert seen.source.startswith("environment of process ")


def test_a_process_that_cannot_be_looked_at_is_not_known(tmp_path: Path) -> None:
    """No socket, or an environment that this user may not read."""
    assert isinstance(environment.of_process(tmp_path / "none.sock"), Unknown)
    with listening() as path:
        assert isinstance(environment.of_process(path, proc=tmp_path), Unknown)


SHOWN = """\
Id=containerd.service
LoadState=not-found
Environment=

Id=k3s.service
LoadState=loaded
Environment=HTTP_PROXY=http://one:1 "NO_PROXY=a, b"
EnvironmentFiles={folder}/first (ignore_errors=yes)
EnvironmentFiles={folder}/absent (ignore_errors=yes)

Id=k3s-agent.service
LoadState=loaded
Environment=HTTP_PROXY=http://two:2
"""


def test_systemd_is_asked_where_the_process_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first service that there is counts; its files go before its own lines."""
    (tmp_path / "first").write_text(
        '# comment\nHTTPS_PROXY="http://three:3"\n\nHTTP_PROXY=http://four:4\nodd\'\n'
    )
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{SHOWN.format(folder=tmp_path)}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    seen = environment.of_service()
    assert isinstance(seen, ProxySettings)
    assert (seen.http, seen.https, seen.exempt) == ("http://four:4", "http://three:3", "a, b")
    assert (seen.source, seen.unit) == ("systemctl show k3s.service", "k3s.service")
    program.write_text("#!/bin/sh\nexit 1\n")
    assert isinstance(environment.of_service(), Unknown)
    program.unlink()
    assert isinstance(environment.of_service(), Unknown)


def test_the_service_of_a_process_is_named(tmp_path: Path) -> None:
    """By its control group; containerd's own where that says nothing."""
    assert environment._unit(tmp_path) == "containerd.service"
    (tmp_path / "cgroup").write_text("12:pids:/system.slice/k3s.service\n0::/user.slice\n")
    assert environment._unit(tmp_path) == "k3s.service"
    (tmp_path / "cgroup").write_text("0::/kubepods/pod1/abc\n")
    assert environment._unit(tmp_path) == "containerd.service"
