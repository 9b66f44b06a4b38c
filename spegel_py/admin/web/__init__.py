"""The status page at `/debug/web/`: how this node is and what it does, for people with a browser."""
