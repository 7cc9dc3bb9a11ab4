"""What a policy would cost, and how long work would wait: the real code over a leaping clock."""
