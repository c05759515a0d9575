"""A Kubernetes rollout, played with local processes."""
