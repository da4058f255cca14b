"""What the commands share on the terminal: options, progress, tables, units, signals."""
