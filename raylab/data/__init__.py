"""Text to tokens to batches, and the demo's generated languages."""
