"""What this node holds: one port, and its implementations for containerd, an image-layout folder and tests."""
