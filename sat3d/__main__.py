"""``python -m sat3d``."""

from sat3d.cli.app import main

if __name__ == "__main__":
    main()
