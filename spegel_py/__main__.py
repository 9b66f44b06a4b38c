"""Run the command line as `python -m spegel_py`."""

from spegel_py.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
