"""A rogue node for tests: a peer and a client that do what no honest one does, by turns."""
