"""Side by side with rsync, over one private sshd."""
