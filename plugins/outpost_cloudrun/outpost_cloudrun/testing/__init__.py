"""Cloud Run on one machine: the Admin API, the front, metadata and a bucket, for tests.

`outpost_cloudrun.testing.emulator.emulator` starts all of it. What it emulates, and how it was
checked against Google's own client, is told in `docs/guides/cloudrun.md`.
"""
