"""`python -m experiments` is the command `topformer-nas`."""

from experiments.cli.main import main

if __name__ == "__main__":
    main()
