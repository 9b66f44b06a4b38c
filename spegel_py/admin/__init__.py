"""Everything that is served on the metrics port: metrics, state, records, images, status page."""
