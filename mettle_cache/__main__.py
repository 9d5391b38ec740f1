"""The ``mettle`` command, also as ``python -m mettle_cache``.

Signals are answered before the command line is imported, which takes longer than a hurried user waits.
"""

from mettle_cache.pipelines.signals import Command, answer, command_signals, end_process


def main() -> None:
    """Entry point of the ``mettle`` script."""
    with command_signals():
        try:
            from mettle_cache.cli.main import main as run_command

            run_command()
        except BaseException:
            if Command.interrupted:
                answer("error: interrupted")
                end_process()
            raise


if __name__ == "__main__":
    main()
