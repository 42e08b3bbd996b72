"""Studies: arms compared fairly on the same pairs, prompts and seeds, from a settings file to intervals."""
