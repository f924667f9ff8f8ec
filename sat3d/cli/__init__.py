"""The command line: reading arguments and showing results. One module per command."""
