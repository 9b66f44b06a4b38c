"""The status page at `/debug/web/`: the state of this node, for people with a browser."""
