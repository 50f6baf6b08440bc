"""What the programs share: timing in turns, tables and plots, made-up files."""
