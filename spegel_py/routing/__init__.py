"""Finding the peers that hold a key: ports, libp2p, an implementation for tests, advertiser."""
