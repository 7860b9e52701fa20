"""A real Kubernetes of one node on this machine: kubelet, containerd, bridge, kube-proxy, CoreDNS and eight make-believe GPUs.

Everything listens on 127.0.0.1 or on the node's own bridge. One machine holds one such node at a time.
"""
