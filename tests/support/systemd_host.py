"""A plain host with a real systemd, so that the commands of the guides manage real services.

systemd is the first process of a PID namespace. It knows its own minimal units only, so it starts
nothing else of the machine's.
"""

from __future__ import annotations

from tests.support.containerd import CONTAINERD
from tests.support.hosts import _BOOT, PlainHost
from tests.support.namespaces import Namespace
from tests.support.processes import CommandFailed, until

SYSTEMD = "/lib/systemd/systemd"

_UNITS = """\
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system /run/lock
mount -t tmpfs tmpfs /etc/systemd/system
mount -t tmpfs tmpfs /usr/lib/systemd/system
umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo 0123456789abcdef0123456789abcdef >/etc/machine-id
printf '[Journal]\\nReadKMsg=no\\nAudit=no\\nStorage=volatile\\n' >/etc/systemd/journald.conf
cd /usr/lib/systemd/system
for target in sysinit basic shutdown multi-user network sockets; do
    printf '[Unit]\\nDefaultDependencies=no\\n' >$target.target
done
cat >only.target <<'END'
[Unit]
DefaultDependencies=no
Wants=systemd-journald.socket
END
cat >systemd-journald.socket <<'END'
[Unit]
DefaultDependencies=no
[Socket]
ListenDatagram=/run/systemd/journal/socket
ListenStream=/run/systemd/journal/stdout
PassCredentials=yes
Service=systemd-journald.service
END
cat >systemd-journald.service <<'END'
[Unit]
DefaultDependencies=no
Requires=systemd-journald.socket
After=systemd-journald.socket
[Service]
Type=notify
ExecStart=/lib/systemd/systemd-journald
StandardOutput=null
Sockets=systemd-journald.socket
RuntimeDirectory=systemd/journal
RuntimeDirectoryPreserve=yes
END
cat >containerd.service <<'END'
[Unit]
After=network.target
[Service]
ExecStart={containerd} --config /etc/containerd/config.toml
KillMode=process
END
cat >k3s.service <<'END'
[Service]
ExecStart=/bin/sleep infinity
END
cd /
container=other exec {systemd} --system --unit=only.target --log-target=console
"""


class SystemdHost(PlainHost):
    """A host with systemd, journald, and containerd as a service. `k3s.service` is a sleep."""

    boot = _BOOT.format(
        overlays="etc opt root var usr/local/bin",
        end=_UNITS.format(systemd=SYSTEMD, containerd=CONTAINERD),
    )

    # The unit hides home folders, so its environment must not come from a Python there.
    search_path = ":".join(
        folder
        for folder in PlainHost.search_path.split(":")
        if not folder.startswith(("/root", "/home"))
    )

    @staticmethod
    def enter(namespace: Namespace) -> tuple[str, ...]:
        """Return the beginning of the command that boots the host: its own namespaces."""
        kinds = ("pid", "mount", "uts", "ipc", "cgroup")
        flags = ("--fork", "--kill-child", *(f"--{kind}" for kind in kinds))
        return (*namespace.prefix, "unshare", *flags)

    @staticmethod
    def namespaces(first: int | None) -> tuple[str, ...]:
        """Return the flags with which nsenter finds the host's own namespaces."""
        return (f"--mount=/proc/{first}/ns/mnt", f"--pid=/proc/{first}/ns/pid_for_children")

    async def start_containerd(self) -> None:
        """Start the service, once systemd takes orders, and wait until containerd answers."""

        async def is_started() -> bool:
            try:
                await self.shell("systemctl start containerd")
            except CommandFailed:
                return False
            return True

        await until(is_started, deadline=30.0, pause=0.1)
        await until(self.is_serving, deadline=60.0, pause=0.1)
