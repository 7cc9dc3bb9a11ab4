"""What programs of containers have in common: their machine can vanish, and was made for them."""
