"""Four workers share the squares of ten numbers."""

from procession import Pool


def worker(num):
    return num * num


if __name__ == "__main__":
    with Pool(processes=4) as pool:
        print(pool.map(worker, range(10)))
