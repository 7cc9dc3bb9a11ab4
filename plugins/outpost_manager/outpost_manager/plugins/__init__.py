"""The plugins that are installed: what they provide, what is wrong with them, how to make one."""
