"""`outpost serve`: one mayor a state folder, what it hosts, and how it is kept running."""
