"""What the far side asks of the operating system."""
