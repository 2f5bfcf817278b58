"""Speed, ours and a peer's in the same run."""
