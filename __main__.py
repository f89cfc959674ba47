"""`python -m foldstream`: the command line, also where its script is not on the path."""

from .cli import run_and_leave

if __name__ == "__main__":
    run_and_leave()
