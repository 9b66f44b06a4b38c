"""How bytes move: ports, an HTTP client on raw sockets, and threads that let the kernel send."""
