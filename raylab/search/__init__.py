"""A study to jobs, and the jobs to Ray: the only folder that imports it."""
