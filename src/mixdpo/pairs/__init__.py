"""Several answers to a prompt to pairs: rated by judges, put on one scale, and chosen by a rule."""
