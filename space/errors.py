"""Users' mistakes: one clear line each, caught in launch.py, exit status 2."""


class UserError(Exception):
    """What is wrong, where, and what to do; printed as one line without a traceback."""
