"""Who holds the streams of an outpost's workers when the command line has ended.

A keeper is one small process per outpost and user. It is started by the first command that needs
it, holds what each mode of Cloud Run needs to be held (`course`), writes down all that workers
say (`records`), and speaks the stdio protocol on a private socket, so that the outpost object of
a command is a client of it. It ends when nothing runs and nobody came for a while. Killed at any
moment, the next command starts it again, and it goes on from what is written down.

`place` says where it is found and what it is told, `find` starts and greets it, `hold` is the
process, `held` the outpost that it serves. A program that stays, such as `outpost serve`, would
serve the same `Held` inside of itself: it takes the lock as `hold` does, and commands find it at
the same socket.
"""
