"""What this side knows and keeps of workers."""
