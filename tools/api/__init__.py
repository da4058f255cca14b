"""The functions behind the commands, for the shell and for Python alike. Nothing here prints or imports click."""
