"""The one error a user is meant to read: it names the file or setting, the value, and the fix."""


class PulseError(Exception):
    """A problem the user can mend. The command line prints its text without a stack trace."""
