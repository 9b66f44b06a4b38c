"""A rogue node for tests: a peer and a client that attack honest nodes in many ways."""
