"""`python -m experiments` is the command `topformer-nas`."""

from experiments.cli import main

if __name__ == "__main__":
    main()
