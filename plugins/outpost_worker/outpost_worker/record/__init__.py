"""The record of a worker: what of it outlives the machine that it is on."""
