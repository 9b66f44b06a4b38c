"""Who else holds it: one port, its libp2p implementation, an in-process one for tests, and the advertiser."""
