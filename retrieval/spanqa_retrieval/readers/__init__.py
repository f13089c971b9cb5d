"""How each kind of file becomes documents."""
