"""What follows the event log: `observers` tells plugins, `following` is for who reads it."""
