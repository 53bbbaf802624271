"""The Kubernetes operator's package. Empty: its handlers come together with the manifests."""
