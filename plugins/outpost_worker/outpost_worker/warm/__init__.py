"""Supervisors that are forked from a warm process, which has loaded all that they need.

Python's start is most of what a short worker costs. So a launch of several has a process started
that loads what a supervisor needs and then forks one for each request (`server`). It is asked
over a private socket, by the id of a worker that is published already (`client`), and its name says
which version and which surroundings it stands for (`place`). It holds no truth: where it is
missing, dead, stuck or of another version, supervisors are started as before, and the claim in a
worker's folder keeps what was started both ways from running twice.
"""
