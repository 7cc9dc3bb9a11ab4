"""What is written at the cluster, as dicts made by pure functions."""
