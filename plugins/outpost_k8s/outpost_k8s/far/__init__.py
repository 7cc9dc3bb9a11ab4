"""The far side: the program in the pod, which runs one order to its end."""
