"""What comes after an attempt has ended."""
