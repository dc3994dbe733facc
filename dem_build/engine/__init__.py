"""Runs a plan on workers and publishes what it made."""
