"""Content from peers: a pull reads from `pull` through `first_response` to `body_relay`."""
