"""``python -m shoal_admission``."""

from shoal_admission.app import main

if __name__ == "__main__":
    main()
