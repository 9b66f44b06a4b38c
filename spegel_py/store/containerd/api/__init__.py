"""The messages of containerd's API that are used here, generated from the .proto files beside this
(see Makefile).
"""
