"""The content that this node holds: one port, implemented for containerd, for image layouts and for
tests.
"""
