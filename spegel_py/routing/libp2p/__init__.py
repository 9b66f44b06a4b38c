"""The router over libp2p: a Kademlia DHT that Spegel's nodes share, and a bulk announce protocol of our own.

The libp2p side runs on Trio in a thread of its own (thread, service); the asyncio side sees one object (router).
Decisions are pure (records, frames, keys, links' cursors); everything that works around py-libp2p is in compat.
"""
