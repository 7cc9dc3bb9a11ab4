"""What is made at the cluster, as the API takes it: pure functions that return dicts."""
