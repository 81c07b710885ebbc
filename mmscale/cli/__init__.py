"""The command line: one file a verb, each with an example that works as typed."""
