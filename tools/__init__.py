"""The commands, one thin module each, and what they share. ``main.COMMANDS`` lists them."""
