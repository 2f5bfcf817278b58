"""raylab: which languages hurt each other inside one pretrained model, why, and what mends it."""

from raylab import registration

registration.register_when_imported()
