"""``python -m shoal_shard_controller``."""

from shoal_shard_controller.app import main

if __name__ == "__main__":
    main()
