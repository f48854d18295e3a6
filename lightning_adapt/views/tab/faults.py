"""What was asked for and does not exist."""


class Unknown(LookupError):
    """There is no such run, optimizer, tag, statistic, step or row; the text says what there is."""
