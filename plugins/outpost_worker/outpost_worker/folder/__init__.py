"""A worker's folder: its files, its claim, its seal, and what may be believed of them."""
