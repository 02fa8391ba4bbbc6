"""Django's database backend for SQLite, with a file that only its owner can read."""
