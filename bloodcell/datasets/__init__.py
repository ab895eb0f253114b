"""Named data sets: where each comes from, and what is known of its images."""
