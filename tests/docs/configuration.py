"""Write the page of all settings, from their table: `python -m tests.docs.configuration`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from spegel_py.config import REGISTRY
from spegel_py.settings import Setting

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"

_VALUES = PAGE.parents[2] / "deploy" / "helm" / "spegel-py" / "values.yaml"

_CHART = {
    "registry_addr": "service.registry.port",
    "router_addr": "service.router.port",
    "metrics_addr": "service.metrics.port",
    "data_dir": "spegel.persistence",
    "preheat_file": "spegel.preheat",
    "runtime_addr": "runtime.port",
    "runtime_token": "runtime.token",
    "cluster_keys": "clusterKeys.secretName",
    "cluster_keys_mode": "clusterKeys.mode",
    "peer_tls": "peerTls.secretName",
    "peer_tls_mode": "peerTls.mode",
    "registry_credentials": "spegel.registryCredentialsSecretName",
}
"""Values of the chart that are not called as their setting."""

_HEAD = """\
# Configuration

<!-- Made by `make docs` from the program's own table of settings: change the help text there. -->

Every setting of `spegel-py registry` is a flag, an environment variable (the flag in upper snake
case) and a key of the YAML file that `--config` names (the flag in snake case). A flag wins over
the environment, the environment over the file, the file over the default. An unknown or malformed
value stops the start with one line that names it, and exit status 2.

- **A file may be nested**: `health: {interval: 10s, passive: {fails: 3}}` sets `health_interval`
  and `health_passive_fails`.
- **Durations** are written as Go does, and in days too: `20ms`, `5s`, `1m30s`, `90m`, `1d`.
- **Sizes and rates** have a unit: `64KiB`, `10MB`, `1.5GiB`, and `10MB/s` or `10MiB/s`. `kB`,
  `MB`, `GB` and `TB` are powers of 1000; `KiB`, `MiB`, `GiB` and `TiB` are powers of 1024. A plain
  number counts bytes.
- **Several values** are separate arguments of a flag, a list in a file, and separated by commas
  in a variable, as with Spegel. A value with a comma, such as `"^docker\\.io/a{1,3}/"`, stands in
  double quotes there.
- **The last column** is the key of the [chart's values](../guides/kubernetes.md#values), if there
  is one.
- **The password** of the registry is no setting. It is read from the files `username` and
  `password` under `/etc/secrets/basic-auth`, if they exist ([how to replace
  it](security.md#password)).
- **Tracing** (`--tracing-endpoint`) sends a span for each request and for each peer that is
  asked. It needs `pip install 'spegel-py[tracing]'`; the image has it. OpenTelemetry's own
  variables configure the rest: `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` set the
  sampling (all, or as the caller's `traceparent` decides), `OTEL_RESOURCE_ATTRIBUTES` adds
  attributes of the node, and `OTEL_EXPORTER_OTLP_HEADERS` has the headers for the collector.

| flag | variable | key | default | chart |
|---|---|---|---|---|
"""


def render() -> str:
    """Return the page."""
    values = yaml.safe_load(_VALUES.read_text())["spegel"]
    rows = "".join(f"{_row(setting, values)}\n" for setting in REGISTRY)
    return f"{_HEAD}{rows}\n## Meaning\n\n{''.join(_meanings())}"


def _row(setting: Setting, values: dict[str, Any]) -> str:
    cells = (
        f"[`{setting.flag}`](#{setting.flag[2:]})",
        f"`{setting.variable}`",
        f"`{setting.name}`",
    )
    return f"| {' | '.join((*cells, shown(setting), _chart(setting, values)))} |"


def _chart(setting: Setting, values: dict[str, Any]) -> str:
    camel = re.sub(r"_(.)", lambda found: found[1].upper(), setting.name)
    key = _CHART.get(setting.name) or (f"spegel.{camel}" if camel in values else "")
    return f"`{key}`" if key else "–"


def _meanings() -> Iterator[str]:
    for setting in REGISTRY:
        meaning = f"{setting.help[0].upper()}{setting.help[1:]}."
        yield f"### {setting.flag[2:]}\n\n{textwrap.fill(meaning, 100, break_on_hyphens=False)}\n"
        if setting.choices:
            yield f"One of {', '.join(f'`{choice}`' for choice in setting.choices)}.\n"
        if setting.many:
            yield "Takes several.\n"
        yield "\n"


def shown(setting: Setting) -> str:
    """Return a default as a cell of the table."""
    default = setting.shown_default
    return default if default == "none" else f"`{default}`"


if __name__ == "__main__":
    PAGE.write_text(render())
