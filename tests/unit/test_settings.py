"""How settings are read: precedence, parsing, and errors that name what is wrong and where."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py import settings, values
from spegel_py.config import REGISTRY, Config
from spegel_py.errors import ConfigError
from spegel_py.tools.basic_auth import Credentials


def load(
    *,
    flags: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    file: Path | None = None,
) -> Config:
    return Config.load(flags=flags or {}, environment=environment or {}, file=file)


def test_defaults_are_spegels() -> None:
    """Without any setting the addresses, paths and names are Spegel's."""
    config = load()
    assert (config.registry_addr, config.router_addr, config.metrics_addr) == (
        ":5000",
        ":5001",
        ":9090",
    )
    assert str(config.containerd_sock) == "/run/containerd/containerd.sock"
    assert config.containerd_namespace == "k8s.io"
    assert (
        str(config.containerd_content_path)
        == "/var/lib/containerd/io.containerd.content.v1.content"
    )
    assert config.data_dir is None


def test_every_default_is_what_its_own_parser_would_give() -> None:
    """A default written as text parses to itself, so that flag and default cannot differ in
    kind.
    """
    for setting in REGISTRY:
        if isinstance(setting.default, (int, float)) and not isinstance(setting.default, bool):
            text = (
                f"{setting.default}s"
                if isinstance(setting.default, float)
                else str(setting.default)
            )
            assert setting.parse(text) == setting.default, setting.name


def test_precedence_is_flag_environment_file_default(tmp_path: Path) -> None:
    """Each source wins over the ones after it."""
    file = tmp_path / "config.yaml"
    file.write_text("registry_addr: ':1'\nrouter_addr: ':1'\nmetrics_addr: ':1'\n")
    environment = {"REGISTRY_ADDR": ":2", "ROUTER_ADDR": ":2"}
    config = load(flags={"registry_addr": ":3"}, environment=environment, file=file)
    assert (config.registry_addr, config.router_addr, config.metrics_addr) == (":3", ":2", ":1")


def test_nested_keys_are_the_flat_ones(tmp_path: Path) -> None:
    """A mapping in the file stands for names with its key before them."""
    file = tmp_path / "config.yaml"
    file.write_text(
        "containerd:\n  namespace: moby\n  content_path: ''\nmirror: {resolve: {timeout: 20ms}}\n"
    )
    config = load(file=file)
    assert config.containerd_namespace == "moby"
    assert config.containerd_content_path is None
    assert config.mirror_resolve_timeout == 0.02


@pytest.mark.parametrize(
    "key", ["log_level", "mesh_limit", "share_in_flight", "tag_ttl", "registry_addr"]
)
def test_a_value_that_holds_itself_a_billion_times_is_named(tmp_path: Path, key: str) -> None:
    """In a line, and at once: aliases of aliases take 200 bytes of the file."""
    lines = ["- &a [x, x, x, x, x, x, x, x, x]"]
    for name, before in zip("bcdefghijk", "abcdefghij", strict=True):
        lines.append(f"- &{name} [{', '.join(['*' + before] * 9)}]")
    file = tmp_path / "config.yaml"
    file.write_text("\n".join([f"{key}:", *lines]))
    with pytest.raises(ConfigError, match=f"{key}: .* should") as raised:
        load(file=file)
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("registry_adr: ':1'", "unknown key registry_adr; did you mean registry_addr?"),
        ("containerd: {socket: x}", "unknown key containerd.socket"),
        ("registry_addr: {port: 1}", "registry_addr: .*should be text"),
        ("announce_interval: soon", "announce_interval: 'soon' should be a duration"),
        ("announce_interval: 100ms", "announce_interval: .*between 500ms and 10m"),
        (
            "health: {passive: {fail: 3}}",
            "unknown key health.passive.fail; did you mean health_passive_fails?",
        ),
        ("health: {intervall: 5s}", "unknown key health.intervall; did you mean health_interval?"),
        ("health: {fails: 0}", "health_fails: 0 should be a whole number from 1 to 100"),
        (
            "health: {passive: {fail_timeout: 5}}",
            "health_passive_fail_timeout: 5 should be a duration",
        ),
        ("mesh_limit: many", "mesh_limit: 'many' should be a whole number"),
        ("bootstrap_kind: mdns", "bootstrap_kind: 'mdns' is not one of dns, http, static"),
        ("registry_filters: ['(']", "registry_filters: .*is not a regular expression"),
        ("- a list", "holds no mapping"),
        ("a: b: c", "is not YAML"),
        ("mesh_limit: " + "9" * 5000, "is not YAML"),
        ("[" * 20_000, "is not YAML"),
        ("mesh_limit: !!bool x", "is not YAML"),
        ("mesh_limit: !!int ''", "is not YAML"),
        ("mesh_limit: !!timestamp x", "is not YAML"),
        ("log_level: [" + "x, " * 5000 + "]", "log_level: .{,200} should be text"),
        (
            "mirrored_registries: ['http://[']",
            "mirrored_registries: 'http://.' should be a registry such as",
        ),
        ('"a\\nb": 1', r"unknown key 'a\\nb'"),
        ("a" * 900 + ": 1", "unknown key a{160}$"),
        ("containerd_sock: /x\ncontainerd: {sock: /y}", "containerd.sock is given twice"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    """A wrong key or value in the file is an error with the file's and the key's name."""
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=named) as caught:
        load(file=file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that cannot be read is an error, not an empty one."""
    with pytest.raises(ConfigError, match=r"--config: .*none.yaml cannot be read"):
        load(file=tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "given", ["5000", ":x", ":70000", "host:5000", "::1:5000", "[::1]", "[10.0.0.1]:1", ""]
)
def test_what_is_no_address_is_named(given: str) -> None:
    """A malformed listen address is an error that names the flag."""
    with pytest.raises(ConfigError, match="--registry-addr"):
        load(flags={"registry_addr": given})


@pytest.mark.parametrize("given", [":5000", "10.0.0.1:5000", "[::1]:5000", "[::]:80"])
def test_an_address_is_kept_as_written(given: str) -> None:
    """Addresses of either family, or of none, are accepted."""
    assert load(flags={"registry_addr": given}).registry_addr == given


def test_a_port_that_cannot_be_told_to_peers_is_refused() -> None:
    """Port 0 would be a different port at each start."""
    with pytest.raises(ConfigError, match="--router-addr"):
        load(flags={"router_addr": ":0"})


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (
            {"warn_when_isolated_for": "9s"},
            "--warn-when-isolated-for: '9s' should lie between 10s and",
        ),
        (
            {"warn_when_isolated_for": "soon"},
            "--warn-when-isolated-for: 'soon' should be a duration",
        ),
        (
            {"critical_when_isolated_for": "1m"},
            r"--critical-when-isolated-for: 1m must be longer than .*\(1m\)",
        ),
        ({"warn_when_isolated_for": "10m"}, "--critical-when-isolated-for: 5m must be longer"),
        ({"ready_when_alone": "never"}, "--ready-when-alone: 'never' should be off or a duration"),
    ],
    ids=["too short", "no duration", "both the same", "after critical", "not off"],
)
def test_wrong_times_of_isolation_are_named(flags: dict[str, Any], named: str) -> None:
    """Levels of isolation that cannot be, and what is no grace period, are errors that name the
    flag.
    """
    with pytest.raises(ConfigError, match=named):
        load(flags=flags)


def test_readiness_without_peers_can_be_turned_off(tmp_path: Path) -> None:
    """`off` means never, written in YAML too, where it is false; 0 means at once."""
    file = tmp_path / "config.yaml"
    file.write_text("ready_when_alone: off")
    assert load(file=file).ready_when_alone is None
    assert load(flags={"ready_when_alone": "off"}).ready_when_alone is None
    assert load(flags={"ready_when_alone": "0"}).ready_when_alone == 0.0


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"private_images": "yes"}, "--private-images"),
        ({"private_when_down": "maybe"}, "--private-when-down"),
        ({"public_registries": "https://docker.io"}, "should be a registry or repositories of one"),
    ],
)
def test_wrong_settings_of_private_images_are_named(flags: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load(flags=flags)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"bootstrap_kind": "dns"}, "--dns-bootstrap-domain"),
        ({"bootstrap_kind": "http"}, "--http-bootstrap-url"),
        ({"private_images": "guard"}, "--private-images guard needs --runtime-token"),
    ],
)
def test_settings_that_need_each_other_say_so(flags: dict[str, Any], named: str) -> None:
    """A bootstrap kind without its source is an error that names the missing flag."""
    with pytest.raises(ConfigError, match=named):
        load(flags=flags)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20ms", 0.02),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("0.5s", 0.5),
        ("1h1m1s1ms", 3661.001),
        ("1d", 86400.0),
        ("90m", 5400.0),
        ("1d12h", 129600.0),
    ],
)
def test_durations_are_go_durations(text: str, seconds: float) -> None:
    """Durations are written as Spegel's flags take them."""
    assert values.duration(text) == pytest.approx(seconds)


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    """No text makes the duration parser fail in another way."""
    try:
        seconds = values.duration(text)
    except ValueError:
        return
    assert seconds >= 0


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("10MB", 10_000_000),
        ("10MiB/s", 10 * 1024**2),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("64KiB", 65536),
        ("64kB/s", 64000),
        ("10 M", 10_000_000),
        ("7B", 7),
        ("12500000", 12_500_000),
        (12_500_000, 12_500_000),
        ("0", 0),
    ],
)
def test_rates_are_read_with_their_unit(text: object, count: int) -> None:
    """Powers of 1000 and of 1024; a plain number counts bytes, as before."""
    assert values.rate(0, 10**12)(text) == count


@pytest.mark.parametrize("text", ["10Mb", "ten", "10MB/h", "", "-1", "1e6", [1], True, "10mb"])
def test_a_rate_that_is_none_is_answered_with_an_example(text: object) -> None:
    """Bits and minutes are not guessed at."""
    with pytest.raises(ValueError, match="should be a rate such as 10MB/s or 64MiB/s"):
        values.rate(0, 10**12)(text)


def test_a_size_has_no_time_and_may_count_in_another_unit() -> None:
    """A plain number counts the unit that the setting always had."""
    assert values.size(0, 10**9, plain=1_000_000)("96") == 96_000_000
    assert values.size(0, 10**9, plain=1_000_000)("96MiB") == 96 * 1024**2
    with pytest.raises(ValueError, match="should be a size such as 10MB or 64MiB"):
        values.size(0, 10**9)("10MB/s")
    with pytest.raises(ValueError, match=r"'2GB' should lie between 1 B and 1\.0 GB"):
        values.size(1, 10**9)("2GB")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (
            {"max_upload_rate": "10Mbit"},
            "--max-upload-rate: '10Mbit' should be a rate such as 10MB/s or 64MiB/s",
        ),
        ({"tag_ttl": "1w"}, "--tag-ttl: '1w' should be a duration such as 20ms, 5s, 90m or 1d"),
        ({"tag_ttl": "4000d"}, "--tag-ttl: '4000d' should lie between 0s and 3650d"),
        (
            {"health_timeout": "20s"},
            "--health-timeout 20s must be below --health-interval 10s",
        ),
    ],
)
def test_a_wrong_unit_is_named_with_its_setting(flags: dict[str, str], complaint: str) -> None:
    """The error shows an example of the right form."""
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        load(flags=flags)


@given(st.text(alphabet="0123456789.kKMGTiB/s ", max_size=12))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    """No text makes the parsers fail in another way, and none of them returns what it refuses."""
    for parse in (values.size(0, 10**12), values.rate(0, 10**12)):
        try:
            assert 0 <= parse(text) <= 10**12
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.2, "200ms"),
        (1.5, "1.5s"),
        (90.0, "90s"),
        (300.0, "5m"),
        (86400.0, "24h"),
        (604800.0, "7d"),
    ],
)
def test_a_duration_is_shown_as_it_is_given(seconds: float, text: str) -> None:
    """Text that the setting itself would take."""
    assert values.written_duration(seconds) == text
    assert values.duration(text) == seconds


def test_lists_come_apart_at_commas_and_as_arguments() -> None:
    """Several values may be one text with commas (environment) or several arguments (flags)."""
    assert load(
        environment={"STATIC_BOOTSTRAP_PEERS": "/ip4/1.1.1.1, /ip4/2.2.2.2"}
    ).static_bootstrap_peers == (
        "/ip4/1.1.1.1",
        "/ip4/2.2.2.2",
    )
    assert load(
        flags={"mirrored_registries": ["https://docker.io", "ghcr.io"]}
    ).mirrored_registries == (
        "https://docker.io",
        "ghcr.io",
    )


def test_a_list_may_repeat_its_flag() -> None:
    """A flag given twice adds to its list instead of replacing it."""
    parser = settings.Parser()
    settings.add_flags(parser, REGISTRY)
    flags = parser.parse_args(["--mirrored-registries", "a", "b", "--mirrored-registries=c,d"])
    assert load(flags=vars(flags)).mirrored_registries == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("name", "is_filtered"),
    [
        ("docker.io/library/alpine:3", False),
        ("registry.example:5000/app:1", False),
        ("quay.io/app:1", True),
        ("docker.io.evil.example/app:1", True),
        ("library/alpine", False),  # no registry is named: nothing says that it is another one
    ],
)
def test_only_the_registries_listed_are_mirrored(name: str, is_filtered: bool) -> None:
    """With a list of registries every other one is filtered."""
    config = load(
        flags={"mirrored_registries": ["https://docker.io", "http://registry.example:5000"]}
    )
    assert config.filters.exclude(name) == is_filtered


@pytest.mark.parametrize(
    "given",
    [["*"], ["_default"], ["https://docker.io", "*"], ["https://*", "ghcr.io"]],
)
def test_a_wildcard_mirrors_all_registries(given: list[str]) -> None:
    """As with Spegel, also beside names of registries."""
    config = load(flags={"mirrored_registries": given})
    assert config.registries == ()
    assert not config.filters.exclude("quay.io/app:1")


@pytest.mark.parametrize(
    "given",
    ["https://REG.example", "reg.example:443", "https://reg.example./"],
)
def test_a_mirrored_registry_may_be_spelled_in_any_way(given: str) -> None:
    """It is the registry of the names that containerd has."""
    config = load(flags={"mirrored_registries": [given]})
    assert not config.filters.exclude("reg.example/app:1")
    assert config.filters.exclude("other.example/app:1")


def test_filters_add_to_the_list_of_registries() -> None:
    """Both kinds of filter hold at once."""
    config = load(flags={"mirrored_registries": ["docker.io"], "registry_filters": [":latest$"]})
    labels = ("docker.io/a:latest", "docker.io/a:1", "quay.io/a:1")
    assert [config.filters.exclude(label) for label in labels] == [True, False, True]


@pytest.mark.parametrize(
    ("pattern", "label", "is_filtered"),
    [
        (r"^reg\.example/[[:alnum:]]+:latest$", "reg.example/app:latest", True),
        (r"^reg\.example/[[:alnum:]]+:latest$", "reg.example/a-b:latest", False),
        (r":latest\z", "reg.example/app:latest", True),
        (r"^\Qreg.example/\E", "reg.example/app:1", True),
        (r"^\Qreg.example/\E", "regxexample/app:1", False),
        (r"/\pL+:", "reg.example/app:1", True),
        (r"/\pL+:", "reg.example/123:1", False),
        (r"app:(?i)LATEST$", "reg.example/app:latest", True),
        (r"(?U)^reg.*/", "reg.example/app:1", True),
        (r"(?P<registry>^reg)", "reg.example/app:1", True),
    ],
)
def test_filters_mean_what_they_mean_in_go(pattern: str, label: str, is_filtered: bool) -> None:
    """Spegel's users write filters in the syntax of Go, which is RE2's and not Python's."""
    assert load(flags={"registry_filters": [pattern]}).filters.exclude(label) is is_filtered


@pytest.mark.parametrize(
    "pattern",
    ["(", r"app\Z", "(?=app)", r"(a)\1", "a++", "a{1001}", "[[:letter:]]", "\udcff"],
)
def test_a_filter_that_go_refuses_ends_the_start(
    pattern: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The setting and the expression are named in one line, and RE2 itself writes nothing."""
    named = "--registry-filters: .*is not a regular expression of Go"
    with pytest.raises(ConfigError, match=named) as caught:
        load(flags={"registry_filters": ["^fine$", pattern]})
    assert repr(pattern) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_no_name_makes_a_filter_slow() -> None:
    """A label of 127 parts took Python's own expressions longer than the age of the universe."""
    filters = load(flags={"registry_filters": ["^(.+/)+x$", "((a*)*)*$x"]}).filters
    began = time.process_time()
    assert not filters.exclude("reg.example/" + "a/" * 126 + "y")
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("variable", "patterns"),
    [
        ("^registry,^b/", ["^registry", "^b/"]),
        ("^registry, ^b/ ,", ["^registry", "^b/"]),
        ("^registry\n^b/\n", ["^registry", "^b/"]),
        ('"^a{1,2}/",^b/', ["^a{1,2}/", "^b/"]),
        ('^a/, "^b{1,2}/"', ["^a/", "^b{1,2}/"]),
        (r"^reg\.example/", [r"^reg\.example/"]),
    ],
)
def test_a_variable_holds_several_filters(variable: str, patterns: list[str]) -> None:
    """Commas separate values, as in Spegel; a value with a comma stands in double quotes."""
    found = load(environment={"REGISTRY_FILTERS": variable}).registry_filters
    assert [each.pattern for each in found] == patterns


@pytest.mark.parametrize(
    ("variable", "named"),
    [
        ("^a{1,2}/", r"'\^a\{1' and '2\}/' look like one expression: put it in double quotes"),
        ('"^a', "should be values with commas between them"),
        ("^a,(", r"'\(' is not a regular expression"),
    ],
)
def test_a_list_of_filters_that_came_apart_wrongly_is_refused(variable: str, named: str) -> None:
    """Both halves of a count such as `{1,2}` are valid, and would let pass what is private."""
    with pytest.raises(ConfigError, match=f"environment variable REGISTRY_FILTERS: .*{named}"):
        load(environment={"REGISTRY_FILTERS": variable})


@pytest.mark.parametrize(
    ("given", "value"), [("true", True), ("FALSE", False), ("1", True), ("off", False)]
)
def test_booleans(given: str, value: bool) -> None:
    """Booleans are written in the usual ways."""
    assert load(flags={"debug_web_enabled": given}).debug_web_enabled is value


def test_credentials_come_from_two_files(tmp_path: Path) -> None:
    """Both files give a user and a password, none gives none, one alone is an error."""
    assert Credentials.read(tmp_path) is None
    (tmp_path / "username").write_text("user\n")
    with pytest.raises(ConfigError, match="username and a password"):
        Credentials.read(tmp_path)
    (tmp_path / "password").write_text("secret\n")
    assert Credentials.read(tmp_path) == Credentials(username="user", password="secret")


def test_further_lines_are_passwords_that_are_accepted_too(tmp_path: Path) -> None:
    """So a password is replaced without a moment in which two nodes refuse each other."""
    (tmp_path / "username").write_text("user\n")
    (tmp_path / "password").write_text("new\n\n old \n")
    found = Credentials.read(tmp_path)
    assert found == Credentials(username="user", password="new", others=("old",))
    old = Credentials(username="user", password="old")
    assert found.accept(found.header)
    assert found.accept(old.header)
    assert not found.accept(Credentials(username="user", password="older").header)
    assert not old.accept(found.header)
    assert found.header == Credentials(username="user", password="new").header
    (tmp_path / "password").write_text("a\n" * 5)
    with pytest.raises(ConfigError, match=r"password has 5 lines, each of which is a password"):
        Credentials.read(tmp_path)


@pytest.mark.parametrize(
    ("written", "parallel"),
    [("auto", "auto"), ("off", "off"), ("2", 2), ("16", 16)],
    ids=["auto", "off", "2", "16"],
)
def test_parallel_is_a_word_or_a_number(tmp_path: Path, written: str, parallel: str | int) -> None:
    """As a flag and in the file, where YAML takes `off` for false."""
    file = tmp_path / "config.yaml"
    file.write_text(f"mirror_parallel: {written}\n")
    assert (
        load(flags={"mirror_parallel": written}).mirror_parallel
        == load(file=file).mirror_parallel
        == parallel
    )


@pytest.mark.parametrize("wrong", ["1", "17", "many", "true"])
def test_other_parallels_are_named(wrong: str) -> None:
    """One peer is `off`; a crowd helps nobody."""
    with pytest.raises(
        ConfigError, match=r"--mirror-parallel: .* should be auto, off or a number from 2 to 16"
    ):
        load(flags={"mirror_parallel": wrong})


def test_verification_can_be_off_in_the_file(tmp_path: Path) -> None:
    """YAML reads `off` as false; any other word is named in the error."""
    file = tmp_path / "config.yaml"
    file.write_text("verify_blobs: off\n")
    assert load(file=file).verify_blobs == "off"
    with pytest.raises(ConfigError, match=r"--verify-blobs: 'some' is not one of off, sample, all"):
        load(flags={"verify_blobs": "some"})


def test_health_is_set_as_kraken_writes_it(tmp_path: Path) -> None:
    """The nested keys of Kraken's YAML, and their defaults, which are Kraken's too."""
    file = tmp_path / "config.yaml"
    file.write_text(
        "health: {interval: 5s, timeout: 1s, passes: 1, fails: 2, passive: {fails: 4, "
        "fail_timeout: 1m}}\n"
    )

    def health(config: Config) -> tuple[float, ...]:
        checks = (
            config.health_interval,
            config.health_timeout,
            config.health_passes,
            config.health_fails,
        )
        return (*checks, config.health_passive_fails, config.health_passive_fail_timeout)

    assert health(load()) == (10.0, 3.0, 2, 3, 3, 300.0)
    assert health(load(file=file)) == (5.0, 1.0, 1, 2, 4, 60.0)


def test_a_check_must_end_before_the_next() -> None:
    """A timeout as long as the interval is refused, and both flags are named."""
    with pytest.raises(
        ConfigError, match=r"--health-timeout 3s must be below --health-interval 3s"
    ):
        load(flags={"health_interval": "3s"})


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("", None),
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("https://collector/", "https://collector/v1/traces"),
        ("http://[fd00::1]:4318/otlp/v1/traces", "http://[fd00::1]:4318/otlp/v1/traces"),
    ],
)
def test_a_collector_is_given_by_its_address(written: str, url: str | None) -> None:
    """The path is OTLP's where none is given."""
    assert values.traces_url(written) == url


@pytest.mark.parametrize(
    "written", ["collector:4318", "grpc://collector", "http://", "http://collector:port"]
)
def test_what_is_no_url_of_a_collector_is_named(written: str) -> None:
    """The error has an example of a valid value."""
    with pytest.raises(ValueError, match="should be a URL such as http://collector:4318"):
        values.traces_url(written)


OPTIONAL = ("containerd_content_path", "data_dir", "oci_layout", "tracing_endpoint")
"""Settings whose empty value has a meaning."""


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("source", ["flag", "variable", "file"])
def test_none_is_an_empty_value_in_every_source(name: str, source: str, tmp_path: Path) -> None:
    """An empty variable counts as not set, as templates leave it; the word does not."""
    file = tmp_path / "node.yaml"
    other = "http://collector:4318" if name == "tracing_endpoint" else "/other"
    file.write_text(f"{name}: {'none' if source == 'file' else other}\n")
    config = Config.load(
        flags={name: "none"} if source == "flag" else {},
        environment={name.upper(): "none"} if source == "variable" else {},
        file=file,
    )
    assert getattr(config, name) is None
    config = Config.load(flags={}, environment={name.upper(): ""}, file=None)
    assert getattr(config, name) == getattr(Config(), name)


def test_a_path_that_is_needed_may_not_be_empty() -> None:
    """An empty socket is named with its source."""
    with pytest.raises(ConfigError, match="--containerd-sock: it is empty: give a path"):
        Config.load(flags={"containerd_sock": ""}, environment={}, file=None)


def test_the_settings_that_a_node_tells_are_flags() -> None:
    """The doctor takes them as they are, expressions and lists included."""
    flags = {
        "containerd_content_path": "none",
        "mirrored_registries": ["docker.io", "http://registry.example:5000"],
        "registry_filters": ["^docker.io/a{1,2}$"],
        "metrics_addr": ":9091",
    }
    config = Config.load(flags=flags, environment={}, file=None)
    again = Config.load(flags=config.shown(), environment={}, file=None)
    assert again.shown() == config.shown()
    assert again.containerd_content_path is None
    assert again.registries == config.registries
    assert again.filters.exclude("docker.io/aa")
