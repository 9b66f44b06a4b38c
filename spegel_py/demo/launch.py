"""A script that becomes a node which ends with its parent process, even if that gets SIGKILL.

The script imports nothing of this package. The child itself asks the kernel for the parent-death
signal (Linux, prctl(2)), in its only thread; the request outlives the exec. The parent must not do
that between fork and exec: it would run Python code in a copy of a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Read the parent's process id and the node's arguments from argv, and exec the node."""
    parent, arguments = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the prctl
        raise SystemExit(1)
    command = [sys.executable, "-m", "spegel_py", *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
