"""`python -m spanqa`: the command line, for launchers that start modules."""

from spanqa.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
