"""In-flight sharing: one node fetches content upstream, other nodes get it from its download."""
