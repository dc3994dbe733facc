"""The commands with their options, a module for those that go together; what a command does is in a module of `cli`.

A module is imported when one of its commands is called, and imports what that command needs when it runs.
"""
