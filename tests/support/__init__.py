"""Parts that several kinds of tests use: real daemons, network namespaces, images, processes."""
