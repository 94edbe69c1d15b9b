"""Users' mistakes: one clear line each, caught in launch.py, exit status 2."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class UserError(Exception):
    """What is wrong, where, and what to do; printed as one line without a traceback."""
