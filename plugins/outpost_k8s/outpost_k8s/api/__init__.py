"""The API server, spoken to in dicts: requests, watches, logs, programs in pods."""
