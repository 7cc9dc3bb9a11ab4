"""The far side: runs one order on the machine where it is, with the standard library only."""
