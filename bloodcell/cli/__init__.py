"""The command line: parses the arguments of a verb and calls its function."""
