"""Submit jobs to existing clusters: through Ray's job API, or to Kubernetes with kubectl.

The commands in `terminal/` import it; `kubernetes.py` is pure and does not talk to a cluster.
Nothing here may run a job itself.
"""
