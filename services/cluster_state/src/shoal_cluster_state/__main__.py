"""``python -m shoal_cluster_state``."""

from shoal_cluster_state.app import main

if __name__ == "__main__":
    main()
