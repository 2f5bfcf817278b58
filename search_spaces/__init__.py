"""The studies that come with raylab: one YAML file each."""
