"""Becomes a node that ends when the process that started it ends, whatever ended that, SIGKILL included.

Run as a script of its own, with nothing of this package imported: the kernel's parent-death signal (Linux, prctl(2))
is asked for by the child itself, in one thread, and outlives the exec. Doing that between fork and exec of the
parent would run Python code in a copy of a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Take the parent's process id and the node's arguments from the command line, and become the node."""
    parent, arguments = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        raise SystemExit(1)
    os.execv(sys.executable, [sys.executable, "-m", "spegel_py", *arguments])  # noqa: S606 - no shell is meant


if __name__ == "__main__":
    main()
