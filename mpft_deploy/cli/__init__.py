"""Commands: one thin file each. Heavy packages are imported inside the commands."""
