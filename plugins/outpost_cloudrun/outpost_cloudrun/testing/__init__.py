"""Cloud Run on one machine: the Admin API, the front, metadata and a bucket, for tests."""
