"""Text from elsewhere, made harmless: it can neither control a terminal nor pass for a line of the program's own."""


def plain(value: object) -> str:
    """`value` as one line of text, in which every character that does not print is escaped, as in `\\x1b` or `\\u202e`."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in str(value)
    )
