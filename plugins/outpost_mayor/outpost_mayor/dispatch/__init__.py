"""From the queue to the outposts."""
