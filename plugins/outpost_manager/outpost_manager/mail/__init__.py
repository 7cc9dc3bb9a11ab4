"""Mail to people and agents at outposts."""
