"""What tests talk to: a real sshd, networks of namespaces, a model server that answers by heart."""
