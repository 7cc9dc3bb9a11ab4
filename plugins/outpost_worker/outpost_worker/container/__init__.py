"""What programs of containers have in common, and who watches them: their machine can vanish."""
