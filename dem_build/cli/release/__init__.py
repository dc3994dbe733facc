"""The commands by which something leaves the store: `dem export` and `dem publish`."""
