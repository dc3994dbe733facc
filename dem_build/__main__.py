"""`python -m dem_build` is `dem`."""

from dem_build.cli import main

if __name__ == "__main__":
    main()
