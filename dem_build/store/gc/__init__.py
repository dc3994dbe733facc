"""What nobody needs is found, taken away and counted: `dem cache gc`."""
