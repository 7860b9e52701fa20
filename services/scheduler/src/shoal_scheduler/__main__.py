"""``python -m shoal_scheduler``."""

from shoal_scheduler.app import main

if __name__ == "__main__":
    main()
