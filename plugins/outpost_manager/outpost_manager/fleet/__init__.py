"""The configured outposts, asked one by one."""
