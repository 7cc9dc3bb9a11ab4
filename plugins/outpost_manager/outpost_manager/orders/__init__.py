"""From what a user says to an order."""
