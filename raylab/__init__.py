"""raylab: which languages hurt each other inside one pretrained model, why, and what mends it."""
