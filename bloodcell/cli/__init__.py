"""The command line: a verb's words are read here, and its function is called."""
