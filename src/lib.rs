//! Cluster membership for MicroK8s nodes: the library behind the `microk8s` binary.
