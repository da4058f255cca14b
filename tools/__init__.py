"""The commands: one module each, thin. ``main.COMMANDS`` is the list."""
