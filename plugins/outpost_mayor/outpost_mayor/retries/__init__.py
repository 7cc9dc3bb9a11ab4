"""What comes after an attempt of the queue has ended: another one, a pause, or the end."""
