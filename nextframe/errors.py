"""The one error a user is meant to see."""


class UserError(Exception):
    """Something the user can put right. The message is one line: what is wrong, where, and the way out.

    The command line prints it without a traceback and exits with status 2. Everything else that is raised is a bug
    and keeps its traceback.
    """


class Stopped(KeyboardInterrupt):
    """Asked to give way (SIGTERM), and nothing is lost: the same command goes on from here."""
