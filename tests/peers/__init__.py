"""What tests talk to: a real sshd, networks of namespaces, a model server that answers by heart."""


class MissingError(RuntimeError):
    """Something is not there that a test needs: a program, root, namespaces.

    A test that raises it is left out with its message; where everything has to run, it fails.
    """
