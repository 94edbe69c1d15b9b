"""The command line; search is the default command."""
