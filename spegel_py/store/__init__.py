"""What this node holds: one port, implemented for containerd, an image-layout folder and tests."""
