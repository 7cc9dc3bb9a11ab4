"""The Kubernetes backend: one Job a worker."""
