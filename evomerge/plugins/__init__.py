"""Components found by file name, and a user's own code, imported only when asked for."""
