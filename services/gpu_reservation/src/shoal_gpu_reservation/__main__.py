"""``python -m shoal_gpu_reservation``."""

from shoal_gpu_reservation.app import main

if __name__ == "__main__":
    main()
