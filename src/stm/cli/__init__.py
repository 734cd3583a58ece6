"""Programs for people: the command `stm`."""
