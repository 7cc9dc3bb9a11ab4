"""Cloud Run's Admin API v2: services, jobs, executions, instances, operations."""
