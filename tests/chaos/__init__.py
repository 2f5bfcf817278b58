"""Sweeps that are disturbed at random times, and must end as if they had not been: `python -m tests.chaos --help`."""
