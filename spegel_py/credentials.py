"""The basic-auth secret: the mirror asks for it, and containerd is told to send it."""

from __future__ import annotations

from pathlib import Path

from spegel_py.errors import ConfigError

BASIC_AUTH_DIR = Path("/etc/secrets/basic-auth")
"""Where Spegel's chart mounts the secret."""


def read_credentials(folder: Path = BASIC_AUTH_DIR) -> tuple[str, str] | None:
    """Return user name and password from the two files Spegel's chart mounts, or None where there are none."""
    username, password = folder / "username", folder / "password"
    if not username.exists() and not password.exists():
        return None
    try:
        return username.read_text().strip(), password.read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"{folder} must hold a username and a password that can be read: {error}"
        ) from error
