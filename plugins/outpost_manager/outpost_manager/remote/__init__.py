"""A server's manager from far away: `outpost --server URL` makes the command line its client."""
