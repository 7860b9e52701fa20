"""``python -m shoal_pod_grouper``."""

from shoal_pod_grouper.app import main

if __name__ == "__main__":
    main()
