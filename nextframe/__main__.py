"""Where `nextframe` begins."""

import faulthandler
import signal
import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback from its first moment on."""
    if sys.stderr is not None:  # closed, as some daemons leave it
        faulthandler.register(signal.SIGUSR1, all_threads=True)  # where it hangs, whoever asks
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nobody could catch what is raised while modules are imported
    from nextframe import cli

    signal.signal(signal.SIGINT, handler)
    cli.main()


if __name__ == "__main__":
    main()
