"""In the pod: runs one order to its end, and is served through exec. Imports nothing near."""
