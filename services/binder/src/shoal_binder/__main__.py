"""``python -m shoal_binder``."""

from shoal_binder.app import main

if __name__ == "__main__":
    main()
