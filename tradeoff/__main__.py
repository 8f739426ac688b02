"""`python -m tradeoff` is the command `tradeoff`."""

from tradeoff.studies.cli.main import main

if __name__ == "__main__":
    main()
