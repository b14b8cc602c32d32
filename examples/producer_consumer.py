"""One process fills a queue, another empties it; ``None`` says that nothing more will come."""

import procession as multiprocessing


def producer(queue):
    for item in range(5):
        queue.put(item)
    queue.put(None)


def consumer(queue):
    while True:
        item = queue.get()
        if item is None:
            break
        print(f"Consumed {item}")


if __name__ == "__main__":
    queue = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(target=producer, args=(queue,)),
        multiprocessing.Process(target=consumer, args=(queue,)),
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
