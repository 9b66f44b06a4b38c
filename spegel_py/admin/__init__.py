"""The commands that ask a running node: `status`, `peers`, `images`, `measure`, `resolve`, `why` and `alerts`."""
