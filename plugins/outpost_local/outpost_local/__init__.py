"""Workers on this machine: in tmux sessions, or as detached processes where tmux is missing."""
