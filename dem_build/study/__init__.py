"""What `import dem_build` gives: a recipe as an object whose methods are what `dem` does on a command line."""
