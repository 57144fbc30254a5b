"""`python -m sockd`."""

from sockd.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
