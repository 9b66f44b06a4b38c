"""The command line's commands, one module each, with `add_arguments(parser)` and `run(options)`.

`images`, `measure`, `peers`, `resolve`, `status`, `why` and `alerts` ask a running node over HTTP.
"""
