"""A real Kubernetes on this machine: a control plane and nodes, each in namespaces of its own.

It needs root, cgroup v1, Go (the programs are built once, see `.ci/kubernetes`) and the packages of
`.ci/setup`. Start one by hand with `python -m tests.kubernetes`.
"""
