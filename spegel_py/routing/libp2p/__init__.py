"""The router over libp2p: a Kademlia DHT shared with Spegel, and a bulk announce protocol of our
own.

The libp2p side runs on Trio in a thread of its own (`thread`, `service`). The asyncio side sees one
object (`router`). Decisions are pure (`records`, `frames`, `keys`, `sharing`). Everything that
works around py-libp2p is named in `compat`.
"""

from spegel_py.routing.libp2p.stand_ins import install

install()
