"""The gain of in-flight sharing, simulated with up to 10,000 nodes."""
