"""Peregrine in a real cluster: installed, used as its users would, and removed.

    python -m tests.cluster [--overlay dev] [--image peregrine:dev] [--keep]

`make test-cluster` runs it against the cluster that KUBECONFIG names. It is no part of `make test`:
it needs a cluster, the image in it, and minutes.
"""
