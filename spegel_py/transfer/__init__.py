"""Moving bytes: opening content at a peer and sending content to a client."""
