"""What is known about roots between sessions: the crate's trees, kept open while they are of use."""
