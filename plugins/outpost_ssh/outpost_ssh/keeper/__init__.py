"""Keeps the connection to a host between commands, as OpenSSH's ControlPersist does.

Each command of the command line would otherwise import an SSH library, connect and log in. A
small process per user and host holds the connection, with a far Python that waits to be used,
and lends it over a private socket; it ends when nobody used it for `keep`, and at once when its
host is gone. It is started after a login that went well, and used by the next command's first
connection. It is never needed: whoever cannot use it, or has trouble with what it lent, connects
itself and tells the true cause.

`place` says where its socket is, `borrow` uses and starts it, `lend` is the process itself.
"""
