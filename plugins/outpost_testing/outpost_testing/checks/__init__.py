"""The checks, one module a group; importing a module registers its checks."""
