"""``python -m shoal_queue_controller``."""

from shoal_queue_controller.app import main

if __name__ == "__main__":
    main()
