"""Measurements inside pretrained models: where languages' gradients conflict, and which parameters they share."""
