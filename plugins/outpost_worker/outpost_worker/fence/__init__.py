"""The fence around an agent: what it can read, write and reach, while its supervisor stays outside.

An agent reads text from strangers, so that it may turn against its user. It gets its working tree
and a folder for exchange; what is true about it, other workers and its user's secrets are out of
its reach (`places`). The ways to get there, the best first:

- `namespace`: mounts and processes of its own. The first process there ends with the supervisor and
  takes all others with it, so that a killed supervisor leaves nobody behind.
- `landlock`: rules of the kernel for files, where namespaces are refused.
- none, which is said.
"""
