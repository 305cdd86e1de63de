"""The one exception that is meant for the user's eyes."""


class UserError(Exception):
    """Something the user can put right: the message says what, where and what to do.

    Jobs print the message alone, without a traceback, and leave with exit code 2.
    """
