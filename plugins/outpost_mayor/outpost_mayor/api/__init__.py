"""The HTTP API of the mayor: what the command line can do, for programs and for other machines.

`listen` knows nothing of it but where it is: the framework is imported when somebody connects.
"""
