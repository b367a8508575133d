"""The checkpoint that ships inside the package (`checkpoint/`), and the script that made it."""
