"""The commands that set up what is around dem: an editor, a shell, a machine."""
