"""The part of Kubernetes' container runtime interface that pulls images, to do in a test what a
kubelet does.
"""
