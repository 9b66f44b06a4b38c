"""Moving bytes: from a peer or the store to a client. Sockets, threads and descriptors live here only."""
