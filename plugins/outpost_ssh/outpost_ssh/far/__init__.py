"""What runs on the far machine; imports neither asyncssh nor anything of the near side."""
