"""Commands that say what a build would bring, before it is paid for."""
