"""Actions as jobs of a scheduler: the seam to it, the driver's side, and what a job runs."""
